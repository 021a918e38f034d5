"""Drives the runner suite on a real Kubernetes node, which is this machine.

What keeps a job waiting is real: a quota that another pod uses up, a label that no node has, a
pod of a higher priority. Only a node that is gone is played: the test does to the pod what the
garbage collector of pods does.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from agent.config.execution import KubernetesRunnerConfig
from agent.model.cause import Cause
from agent.model.spec import Json
from agent.model.work import Image
from agent.ports.runner import Pending, RunRequest, Workload
from agent.runners.kubernetes.runner import KubernetesRunner
from agent.testing.runner_suite import Scenario
from tests.contract.lossy_api import LossyApi
from tests.contract.runner_drivers import JobFolders, script_of
from tests.infrastructure.process import run
from tests.infrastructure.state import KubernetesFacts


class KubernetesDriver:
    """Jobs in a namespace of their own; scenarios lie on the node, which is this machine."""

    refused_argument = "hostNetwork"

    def __init__(self, root: Path, facts: KubernetesFacts, image: str, api: LossyApi) -> None:
        self.folders = JobFolders(root / "folders")
        self.namespace = f"suite-{self.folders.control_plane_id}"
        self.image = Image(image, "digest", reused=True)
        self._facts = facts
        self._api = api
        self._kubeconfig = api.write_kubeconfig(root / "kubeconfig", self.namespace)
        #: What ends the reasons that a job waits for, by its name.
        self._reasons: defaultdict[str, list[Callable[[], object]]] = defaultdict(list)
        #: Undoes what is outside of the namespace.
        self._undo: list[Callable[[], object]] = []
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
            kubeconfig=self._kubeconfig,
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
        if scenario.starts_lost:
            self._api.requests_lost[name] = scenario.starts_lost
        if scenario.start_answer_lost:
            self._api.answers_lost.add(name)
        pod = _pod(folder)
        for reason in scenario.pending:
            pod |= self._keep_waiting(name, reason.cause)
        script = f"echo >> /scene/starts\n{trap}" + script_of(scenario, "/scene")
        return self.folders.request(
            lease, name, self.image, ("sh", "-c", script), arguments=_job(pod)
        )

    def _keep_waiting(self, name: str, cause: Cause) -> Json:
        """Make a reason to wait; returns what the pod must have for it."""
        match cause:
            case Cause.SCHEDULE_QUOTA:
                self._use_up_quota()
                self._reasons[name].append(lambda: self._kubectl("delete", "quota", "full"))
                return {}
            case Cause.SCHEDULE_NO_NODE:
                label = f"launch-test/{self.namespace}"
                self._reasons[name].append(lambda: self._label_nodes(f"{label}=yes"))
                self._undo.append(lambda: self._label_nodes(f"{label}-"))
                return {"nodeSelector": {label: "yes"}}
            case _:
                raise NotImplementedError(cause)

    def _use_up_quota(self) -> None:
        # A pod that no node takes counts.
        self._apply(_plain_pod("other", {"nodeSelector": {"launch-test/nowhere": "yes"}}))
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}}
        self._apply({**quota, "spec": {"hard": {"pods": "1"}}})
        used = "--for=jsonpath={.status.used.pods}=1"
        self._kubectl("wait", "quota/full", used, "--timeout=60s")

    def _label_nodes(self, label: str) -> None:
        self.kubectl("label", "nodes", "--all", "--overwrite", label)

    def _kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def _apply(self, body: Json) -> None:
        self._kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def wording(self, reason: Pending) -> str:
        return _WORDINGS[reason.cause]

    async def place(self, name: str) -> None:
        self._reasons[name].pop(0)()

    async def preempt(self, name: str) -> None:
        """A pod of a higher priority that must not be on the node of the job's pod."""
        kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1}
        self._apply({**kind, "metadata": {"name": self.namespace}})
        self._undo.append(lambda: self.kubectl("delete", "priorityclass", self.namespace))
        term = {
            "labelSelector": {"matchLabels": {"job-name": name}},
            "topologyKey": "kubernetes.io/hostname",
        }
        affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
        pod = {"priorityClassName": self.namespace, "affinity": affinity}
        self._apply(_plain_pod("important", pod))

    async def lose_node(self, name: str) -> None:
        """What the garbage collector of pods does when a node is gone."""
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
        }
        (pod,) = self._kubectl("get", "pod", f"-l=job-name={name}", "-o=name").split()
        change = {"status": {"phase": "Failed", "conditions": [condition]}}
        self._kubectl("patch", pod, "--subresource=status", f"--patch={json.dumps(change)}")
        self._kubectl("delete", pod, "--force", "--grace-period=0", "--wait=false")

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
        for undo in self._undo:
            undo()
        self.kubectl("delete", "namespace", self.namespace, "--wait=false")


_WORDINGS = {
    Cause.SCHEDULE_QUOTA: "exceeded quota: full, requested: pods=1, used: pods=1, limited: pods=1",
    Cause.SCHEDULE_NO_NODE: "1 node(s) didn't match Pod's node affinity/selector",
}


def _pod(folder: Path) -> Json:
    mount = {"name": "scene", "mountPath": "/scene"}
    volume = {"name": "scene", "hostPath": {"path": str(folder)}}
    return {"containers": [{"volumeMounts": [mount]}], "volumes": [volume]}


def _job(pod: Json) -> Json:
    return {"spec": {"template": {"spec": pod}}}


def _plain_pod(name: str, spec: Json) -> Json:
    """A pod that is not ours; its image is nowhere, so it never runs."""
    containers = [{"name": "other", "image": "invalid", "imagePullPolicy": "Never"}]
    metadata = {"name": name}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": containers, **spec},
    }
