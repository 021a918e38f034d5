"""Gated jobs as pods of the test cluster, and a way to its API server that can be cut."""

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from agent.model.work import LABEL_ITEM
from tests.e2e.harness.home import Home
from tests.e2e.harness.jobs import LINES, SCRIPT, submit
from tests.e2e.harness.proxy import Proxy
from tests.infrastructure.kubernetes_account import kubectl
from tests.infrastructure.state import KubernetesFacts


class Pods:
    """`Backend`: gated jobs in pods; the cluster's events count their starts."""

    def __init__(
        self, cluster: KubernetesFacts, namespace: str, image: str, settings: dict[str, Any]
    ) -> None:
        self.settings = settings
        self._cluster = cluster
        self._namespace = namespace
        self._image = image

    async def submit(self, home: Home, *flags: str) -> str:
        script = SCRIPT.format(lines=LINES, gate="/tmp/gate")
        command = shlex.join(["sh", "-c", script])
        return await submit(home, "--docker-image", self._image, "-E", command, *flags)

    async def open_gate(self, item: str) -> None:
        (pod,) = await self._get("pods", item)
        name = pod["metadata"]["name"]
        await self._kubectl("exec", name, "--", "touch", "/tmp/gate")

    async def starts(self, item: str) -> tuple[int, int]:
        """Pods that a Job's controller created, and containers that a kubelet started."""
        text = await self._kubectl("get", "events", "-o", "json")
        counts = {"SuccessfulCreate": 0, "Started": 0}
        for event in json.loads(text)["items"]:
            if f"-{item}-" in event["involvedObject"]["name"] and event["reason"] in counts:
                counts[event["reason"]] += event.get("count") or 1
        return counts["SuccessfulCreate"], counts["Started"]

    async def running(self, item: str) -> bool:
        return any(pod["status"]["phase"] == "Running" for pod in await self._get("pods", item))

    async def left(self) -> list[str]:
        """Names of what exists of jobs."""
        owned = f"--selector={LABEL_ITEM}"
        return (await self._kubectl("get", "jobs,pods,secrets", "-o", "name", owned)).split()

    async def _get(self, kind: str, item: str) -> list[dict[str, Any]]:
        found = await self._kubectl("get", kind, "-o", "json", f"--selector={LABEL_ITEM}={item}")
        items: list[dict[str, Any]] = json.loads(found)["items"]
        return items

    async def _kubectl(self, *arguments: str) -> str:
        words = ("-n", self._namespace, *arguments)
        return await asyncio.to_thread(kubectl, self._cluster, *words)


@asynccontextmanager
async def way_to_cluster(cluster: KubernetesFacts, kubeconfig: Path) -> AsyncIterator[Proxy]:
    """Lead a kubeconfig through a proxy that sees the requests, which are in plain HTTP."""
    serving = await asyncio.create_subprocess_exec(
        *(cluster.kubectl, f"--kubeconfig={kubeconfig}", "proxy", "--port=0"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert serving.stdout is not None
    try:
        _, _, port = (await serving.stdout.readline()).decode().strip().rpartition(":")
        async with Proxy(("127.0.0.1", int(port))) as proxy:
            host, port_here = proxy.address
            document = yaml.safe_load(kubeconfig.read_text())
            document["clusters"][0]["cluster"] = {"server": f"http://{host}:{port_here}"}
            kubeconfig.write_text(json.dumps(document))
            yield proxy
    finally:
        serving.terminate()
        await serving.wait()
