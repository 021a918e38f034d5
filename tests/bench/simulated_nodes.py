"""Nodes that run nothing: pods on them start at once, and end at once unless they are to stay."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from agent.config.execution import KubernetesRunnerConfig
from agent.runners.kubernetes.api import PODS, ClusterApi
from agent.runners.kubernetes.reflector import Reflector
from agent.system.tasks import cancel_task
from tests.infrastructure.kubernetes_layout import API_ADDRESS, current
from tests.infrastructure.state import KubernetesFacts

#: Where pods of a benchmark are placed; nothing else is, because of the taint.
LABEL = {"launch-bench.node": "simulated"}
#: Also of the taint that a node gets whose kubelet is not heard of.
TOLERATION = {"operator": "Exists"}
#: Label of pods that run until they are deleted.
STAYS = "launch-bench.stays"
_NODES = 20
_SIZE = {"cpu": "1000", "memory": "1Ti", "pods": "1000"}
_LOG = b"2026-01-01T00:00:00.000000000Z hello\n"


class SimulatedNodes:
    """Sets the status of pods in one namespace, and gives their logs."""

    def __init__(self, api: ClusterApi, namespace: str) -> None:
        #: How many logs are followed at the moment.
        self.followed = 0
        self._staying: dict[str, Any] = {}
        self._over = asyncio.Event()
        self._api = api
        self._path = PODS.path(namespace)
        self._pods: asyncio.Queue[Any] = asyncio.Queue()
        self._reflector = Reflector(api, PODS, namespace, {}, self._changed)

    def _changed(self, pod: dict[str, Any], deleted: bool) -> None:
        simulated = str(pod["spec"].get("nodeName", "")).startswith("simulated-")
        if STAYS in pod["metadata"].get("labels", {}):
            self._staying[pod["metadata"]["name"]] = pod
        if simulated and not deleted:
            self._pods.put_nowait(pod)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reflector.run())
            for _ in range(8):
                tasks.create_task(self._work())

    async def log(self, request: web.Request) -> web.StreamResponse:
        """As a kubelet; a pod that stays writes one line and no more."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(_LOG)
        staying = any(part in self._staying for part in request.path.split("/"))
        if request.query.get("follow") and staying:
            self.followed += 1
            try:
                await self._over.wait()
            finally:
                self.followed -= 1
        return response

    async def end_all(self) -> None:
        """End the pods that stay, and their logs."""
        for name, pod in self._staying.items():
            await self._api.patch(f"{self._path}/{name}/status", _status(pod, "Succeeded"))
        self._over.set()

    def close(self) -> None:
        """End all logs that are followed."""
        self._over.set()

    async def _work(self) -> None:
        while True:
            pod = await self._pods.get()
            metadata = pod["metadata"]
            path = f"{self._path}/{metadata['name']}"
            phase = pod["status"].get("phase")
            if "deletionTimestamp" in metadata:
                await self._api.delete(path, {"gracePeriodSeconds": 0})
            elif phase == "Pending":
                await self._api.patch(f"{path}/status", _status(pod, "Running"))
            elif phase == "Running" and STAYS not in metadata["labels"]:
                await self._api.patch(f"{path}/status", _status(pod, "Succeeded"))


def _status(pod: dict[str, Any], phase: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    state: dict[str, Any] = {"running": {"startedAt": now}}
    if phase == "Succeeded":
        ended = {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}
        state = {"terminated": ended}
    containers = [
        {
            "name": each["name"],
            "image": "simulated",
            "imageID": "",
            "ready": phase == "Running",
            "restartCount": 0,
            "state": state,
        }
        for each in pod["spec"]["containers"]
    ]
    return {"status": {"phase": phase, "startTime": now, "containerStatuses": containers}}


@asynccontextmanager
async def simulated_nodes(
    cluster: KubernetesFacts, namespace: str
) -> AsyncIterator[SimulatedNodes]:
    """Nodes for pods of one namespace, for as long as the context lasts."""
    config = KubernetesRunnerConfig(
        enabled=True, kubeconfig=Path(cluster.kubeconfig), namespace=namespace
    )
    async with ClusterApi(config) as api:
        nodes = SimulatedNodes(api, namespace)
        app = web.Application()
        app.router.add_get("/{path:.*}", nodes.log)
        runner = web.AppRunner(app, shutdown_timeout=1, handler_cancellation=True)
        await runner.setup()
        task = asyncio.create_task(nodes.run())
        try:
            certificates = current().certificates
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificates / "kubelet.pem", certificates / "kubelet.key")
            await web.TCPSite(runner, API_ADDRESS, 0, ssl_context=context).start()
            port = runner.addresses[0][1]
            for number in range(_NODES):
                await _make_node(api, f"simulated-{number}", port)
            yield nodes
        finally:
            nodes.close()
            for number in range(_NODES):
                await api.delete(f"/api/v1/nodes/simulated-{number}", {})
            await cancel_task(task)
            await runner.cleanup()


async def _make_node(api: ClusterApi, name: str, port: int) -> None:
    taint = {"key": "launch-bench.node", "effect": "NoSchedule"}
    metadata = {"name": name, "labels": LABEL}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": [taint]}}
    await api.create("/api/v1/nodes", node)
    status = {
        "addresses": [{"type": "InternalIP", "address": API_ADDRESS}],
        "allocatable": _SIZE,
        "capacity": _SIZE,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Simulated"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    await api.patch(f"/api/v1/nodes/{name}/status", {"status": status})
