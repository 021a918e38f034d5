"""Drives the runner suite on a real Kubernetes node, which is this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.config.execution import KubernetesRunnerConfig
from agent.model.work import Image
from agent.ports.runner import RunRequest, Workload
from agent.runners.kubernetes.runner import KubernetesRunner
from agent.testing.runner_suite import Scenario
from tests.contract.runner_drivers import JobFolders, script_of
from tests.infrastructure.process import run
from tests.infrastructure.state import KubernetesFacts


class KubernetesDriver:
    """Jobs in a namespace of their own; scenarios lie on the node, which is this machine."""

    refused_argument = "hostNetwork"

    def __init__(self, root: Path, facts: KubernetesFacts, image: str) -> None:
        self.folders = JobFolders(root / "folders")
        self.namespace = f"suite-{self.folders.control_plane_id}"
        self.image = Image(image, "digest", reused=True)
        self._facts = facts
        self._runners: list[KubernetesRunner] = []
        self._waiting: list[KubernetesRunner] = []
        self.kubectl("create", "namespace", self.namespace)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        config = f"--kubeconfig={self._facts.kubeconfig}"
        return run([self._facts.kubectl, config, *arguments], stdin=stdin)

    async def prepare(self, runners: int = 8) -> None:
        """Open runners beforehand, since the suite asks for them synchronously."""
        config = KubernetesRunnerConfig(
            enabled=True,
            kubeconfig=Path(self._facts.kubeconfig),
            namespace=self.namespace,
            allow=("hostPath",),
        )
        for _ in range(runners):
            runner = KubernetesRunner(self.folders.control_plane_id, config)
            await runner.__aenter__()
            self._runners.append(runner)
        self._waiting = list(self._runners)

    def runner(self) -> KubernetesRunner:
        return self._waiting.pop()

    def request(self, scenario: Scenario, item: str = "item", attempt: int = 1) -> RunRequest:
        lease, name, folder = self.folders.lay_out(scenario, item, attempt)
        # The first process of a container has no default handlers of signals.
        trap = "" if scenario.ignores_term else "trap 'exit 143' TERM\n"
        script = f"echo >> /scene/starts\n{trap}" + script_of(scenario, "/scene")
        return self.folders.request(
            lease, name, self.image, ("sh", "-c", script), arguments=_manifest(folder)
        )

    async def release(self, name: str) -> None:
        self.folders.release(name)

    async def occupy(self, name: str) -> None:
        self.kubectl("-n", self.namespace, "create", "secret", "generic", name)

    async def vanish(self, workload: Workload) -> None:
        selector = f"-l=job-name={workload.name}"
        options = ("--now", "--wait=false")
        self.kubectl("-n", self.namespace, "delete", "job", workload.name, *options)
        self.kubectl("-n", self.namespace, "delete", "pod", selector, *options)

    async def starts(self, name: str) -> int:
        path = self.folders.root / name / "starts"
        return path.read_text().count("\n") if path.exists() else 0

    async def clear(self) -> None:
        for runner in self._runners:
            await runner.close()
        self.kubectl("delete", "namespace", self.namespace, "--wait=false")


def _manifest(folder: Path) -> Mapping[str, Any]:
    mount = {"name": "scene", "mountPath": "/scene"}
    volume = {"name": "scene", "hostPath": {"path": str(folder)}}
    pod = {"containers": [{"volumeMounts": [mount]}], "volumes": [volume]}
    return {"spec": {"template": {"spec": pod}}}
