"""Jobs on Kubernetes: beside Jobs that a bare script creates, on the same cluster."""

import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from agent.config.execution import KubernetesRunnerConfig
from agent.model.work import LABEL_ITEM
from agent.runners.kubernetes.api import JOBS, PODS, ClusterApi
from agent.runners.kubernetes.reflector import Reflector
from agent.system.tasks import cancel_task
from tests.bench.ours import system
from tests.bench.table import Row
from tests.infrastructure import engine, state
from tests.infrastructure.kubernetes_account import kubectl, make_account, write_kubeconfig
from tests.infrastructure.state import KubernetesFacts

QUEUE = "default"
_ROUNDS = 10
#: The kernel's clock in seconds, the same for everything on this machine.
_UPTIME = "cut -d' ' -f1 /proc/uptime"


@asynccontextmanager
async def _namespace(cluster: KubernetesFacts, root: Path) -> AsyncIterator[tuple[str, Path]]:
    """A namespace with the documented account, and the kubeconfig of that."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(make_account, cluster, name)
    try:
        target = root / "kubeconfig"
        yield name, await asyncio.to_thread(write_kubeconfig, cluster, name, target)
    finally:
        await asyncio.to_thread(kubectl, cluster, "delete", "namespace", name, "--wait=false")


def _settings(cluster: KubernetesFacts, kubeconfig: Path, **more: Any) -> dict[str, Any]:
    off = {"enabled": False}
    return {
        "control": {"port": 0, "also_listen": [cluster.host_address]},
        "runners": {
            "local-container": off,
            "local-process": off,
            "kubernetes": {"enabled": True, "kubeconfig": str(kubeconfig)},
        },
        **more,
    }


def _cluster() -> KubernetesFacts:
    cluster = state.load().kubernetes
    assert cluster is not None
    return cluster


@cache
def _image() -> str:
    """An image with a shell, in the registry from which nodes pull."""
    facts = state.load()
    assert facts.docker
    assert facts.registry
    image = f"{facts.registry.address}/tests/shell:1"
    engine.docker(facts.docker.host, "tag", facts.docker.shell_image, image)
    engine.docker(facts.docker.host, "push", "--quiet", image)
    return image


class Bare:
    """The API as a bare script uses it."""

    def __init__(self, api: ClusterApi, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        #: When the first pod of a Job, by its name, or with a label's value, was seen.
        self.pods: dict[str, asyncio.Future[float]] = {}

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path, namespace: str) -> AsyncIterator["Bare"]:
        config = KubernetesRunnerConfig(enabled=True, kubeconfig=kubeconfig, namespace=namespace)
        async with ClusterApi(config) as api:
            made = cls(api, namespace)
            following = Reflector(api, PODS, namespace, {}, made._on_pod)
            task = asyncio.create_task(following.run())
            yield made
            await cancel_task(task)

    def seen(self, name: str) -> asyncio.Future[float]:
        return self.pods.setdefault(name, asyncio.get_running_loop().create_future())

    def _on_pod(self, pod: dict[str, Any], deleted: bool) -> None:
        labels = pod["metadata"].get("labels") or {}
        seen = self.seen(labels.get(LABEL_ITEM) or labels.get("job-name", ""))
        if not seen.done() and not deleted:
            seen.set_result(time.monotonic())

    async def create(self, pod: dict[str, Any]) -> str:
        name = f"bare-{uuid.uuid4().hex[:12]}"
        template = {"spec": {"restartPolicy": "Never", **pod}}
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": template},
        }
        await self._api.create(JOBS.path(self._namespace), job)
        return name

    async def first_line(self, name: str) -> float:
        """What a Job's pod wrote, once it has."""
        query = {"labelSelector": f"job-name={name}"}
        while True:
            found = await self._api.get(PODS.path(self._namespace), query) or {}
            pods = [one for one in found["items"] if one["status"]["phase"] == "Succeeded"]
            if pods:
                path = PODS.path(self._namespace, pods[0]["metadata"]["name"], "log")
                async with self._api.stream(path, {}, None) as response:
                    return float(await response.text())
            await asyncio.sleep(0.1)


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


async def dispatch(root: Path) -> list[Row]:
    """Submit → pod seen by a watch, and → the job's first line, beside a bare create."""
    cluster, image = _cluster(), _image()
    command = ["sh", "-c", _UPTIME]
    spec = {"docker": {"docker_image": image}, "overrides": {"entry_point": command}}
    pod = {"containers": [{"name": "main", "image": image, "command": command}]}
    bare_delays, delays = [], []
    async with (
        _namespace(cluster, root) as (namespace, kubeconfig),
        system(root, [QUEUE], _settings(cluster, kubeconfig)) as ours,
        Bare.connect(kubeconfig, namespace) as bare,
    ):
        await ours.ended(await ours.submit(QUEUE, spec))
        for _ in range(_ROUNDS):
            begin, uptime = time.monotonic(), _uptime()
            name = await bare.create(pod)
            seen = await bare.seen(name) - begin
            bare_delays.append((seen, await bare.first_line(name) - uptime))
            begin, uptime = time.monotonic(), _uptime()
            item = await ours.submit(QUEUE, spec)
            seen = await bare.seen(item) - begin
            shown = await ours.ended(item)
            assert shown["phase"] == "SUCCEEDED", shown
            delays.append((seen, float(await ours.log(item)) - uptime))
    rows = []
    for index, (what, promise) in enumerate((("pod seen", 150), ("first line", 200))):
        measured, beside = (
            1000 * statistics.median(each[index] for each in taken)
            for taken in (delays, bare_delays)
        )
        rows.append(
            Row(
                f"Kubernetes: submit → {what}, median of {_ROUNDS}",
                f"{measured:.0f} ms",
                f"bare create {beside:.0f} ms",
                f"≤ {promise} ms above (here {measured - beside:+.0f} ms)",
                measured - beside <= promise,
            )
        )
    return rows
