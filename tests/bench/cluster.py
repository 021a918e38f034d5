"""Jobs on Kubernetes: beside Jobs that a bare script creates, on the same cluster."""

import asyncio
import json
import os
import statistics
import time
import uuid
from collections import Counter
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
from tests.bench import simulated_nodes as nodes
from tests.bench.ours import System, cpu_seconds, system
from tests.bench.table import Row
from tests.e2e.harness.cluster import way_to_cluster
from tests.infrastructure import engine, state
from tests.infrastructure.kubernetes_account import kubectl, make_account, write_kubeconfig
from tests.infrastructure.state import KubernetesFacts

QUEUE = "default"
_ROUNDS = 10
#: Jobs at once, and jobs through the simulated nodes.
_AT_ONCE = int(os.environ.get("LAUNCH_BENCH_AT_ONCE", "1000"))
_MANY = int(os.environ.get("LAUNCH_BENCH_JOBS", "5000"))
_ADOPTED = 100
_OUTAGE = int(os.environ.get("LAUNCH_BENCH_OUTAGE", "60"))
_POSTERS = 16
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
        self._complete: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path, namespace: str) -> AsyncIterator["Bare"]:
        config = KubernetesRunnerConfig(enabled=True, kubeconfig=kubeconfig, namespace=namespace)
        async with ClusterApi(config) as api:
            made = cls(api, namespace)
            tasks = [
                asyncio.create_task(Reflector(api, kind, namespace, {}, changed).run())
                for kind, changed in ((PODS, made._on_pod), (JOBS, made._on_job))
            ]
            yield made
            for task in tasks:
                await cancel_task(task)

    def seen(self, name: str) -> asyncio.Future[float]:
        return self.pods.setdefault(name, asyncio.get_running_loop().create_future())

    def _on_pod(self, pod: dict[str, Any], deleted: bool) -> None:
        labels = pod["metadata"].get("labels") or {}
        seen = self.seen(labels.get(LABEL_ITEM) or labels.get("job-name", ""))
        if not seen.done() and not deleted:
            seen.set_result(time.monotonic())

    def _on_job(self, job: dict[str, Any], deleted: bool) -> None:
        if not deleted and (job.get("status") or {}).get("completionTime"):
            self._complete.add(job["metadata"]["uid"])

    @property
    def complete(self) -> int:
        """How many Jobs have ended well."""
        return len(self._complete)

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


def _simulated(labels: dict[str, str] | None = None) -> dict[str, Any]:
    """Resource arguments of jobs on simulated nodes."""
    pod = {"nodeSelector": nodes.LABEL, "tolerations": [nodes.TOLERATION]}
    template = {"metadata": {"labels": labels or {}}, "spec": pod}
    return {"kubernetes": {"spec": {"template": template}}}


async def _queue(ours: System, arguments: dict[str, Any], jobs: int) -> None:
    """Queue so many jobs while the queue is paused."""
    await ours.pause(QUEUE, paused=True)
    spec = {"docker": {"docker_image": _image()}, "resource_args": arguments}
    slots = asyncio.Semaphore(_POSTERS)

    async def one() -> None:
        async with slots:
            await ours.submit(QUEUE, spec)

    await asyncio.gather(*(one() for _ in range(jobs)))


async def scale(root: Path) -> list[Row]:
    """Memory and requests of 1,000 jobs at once, on simulated nodes."""
    cluster = _cluster()
    async with (
        _namespace(cluster, root) as (namespace, kubeconfig),
        nodes.simulated_nodes(cluster, namespace),
        way_to_cluster(cluster, kubeconfig) as way,
        system(root, [QUEUE], _settings(cluster, kubeconfig, max_jobs=_AT_ONCE)) as ours,
    ):
        await _queue(ours, _simulated(), _AT_ONCE)
        before, begin = len(way.requests), time.monotonic()
        await ours.pause(QUEUE, paused=False)
        await ours.all_ended(QUEUE)
        seconds = time.monotonic() - begin
        asked = Counter(_kind(line) for line in way.requests[before:])
        watches = {_kind(line) for line in way.requests if "watch=1" in line}
        memory = _peak(ours.daemon.pid)
        used = cpu_seconds(ours.daemon.pid)
    each = asked.total() / _AT_ONCE
    print(json.dumps(asked.most_common()))
    load = os.getloadavg()[0]
    return [
        Row(
            f"Kubernetes: {_AT_ONCE:,} jobs at once, agent with embedded plane at its peak",
            f"{memory:.0f} MiB",
            f"{used:.0f} s of processor time, {seconds:.0f} s, load {load:.0f}",
            "≤ 300 MiB",
            memory <= 300,
        ),
        Row(
            "the same: requests to the API server",
            f"{each:.2f} a job, {len(watches)} watches",
            "–",
            "≤ 6 a job, ≤ 3 watches",
            each <= 6 and len(watches) <= 3,
        ),
    ]


def _kind(line: str) -> str:
    """Method and resource of a request, without names."""
    method, path, _ = line.split(" ", 2)
    parts = path.partition("?")[0].split("/namespaces/")[-1].split("/")
    return f"{method} {'/'.join(parts[1:2] + parts[3:])}"


def _peak(pid: int) -> float:
    """The most memory that a process had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def rate(root: Path) -> list[Row]:
    """Thousands of jobs on simulated nodes, beside a bare script."""
    cluster = _cluster()
    async with (
        _namespace(cluster, root) as (namespace, kubeconfig),
        nodes.simulated_nodes(cluster, namespace),
        Bare.connect(kubeconfig, namespace) as bare,
    ):
        yardstick = await _bare_seconds(bare)
    async with (
        _namespace(cluster, root) as (namespace, kubeconfig),
        nodes.simulated_nodes(cluster, namespace),
        system(root, [QUEUE], _settings(cluster, kubeconfig, max_jobs=_AT_ONCE)) as ours,
    ):
        await _queue(ours, _simulated(), _MANY)
        begin = time.monotonic()
        await ours.pause(QUEUE, paused=False)
        await ours.all_ended(QUEUE)
        seconds = time.monotonic() - begin
    return [
        Row(
            f"Kubernetes: {_MANY:,} jobs on simulated nodes",
            f"{seconds:.0f} s",
            f"bare script {yardstick:.0f} s",
            f"≤ 1.5 × (here {seconds / yardstick:.2f} ×)",
            seconds <= 1.5 * yardstick,
        )
    ]


async def _bare_seconds(bare: Bare) -> float:
    slots = asyncio.Semaphore(_POSTERS)
    pod = _simulated()["kubernetes"]["spec"]["template"]["spec"]
    pod["containers"] = [{"name": "main", "image": "bench"}]

    async def one() -> None:
        async with slots:
            await bare.create(pod)

    begin = time.monotonic()
    await asyncio.gather(*(one() for _ in range(_MANY)))
    while bare.complete < _MANY:
        await asyncio.sleep(0.1)
    return time.monotonic() - begin


async def adoption(root: Path) -> list[Row]:
    """From the start of an agent until it has adopted 100 running jobs, and follows their logs."""
    cluster = _cluster()
    async with (
        _namespace(cluster, root) as (namespace, kubeconfig),
        nodes.simulated_nodes(cluster, namespace) as kubelets,
    ):
        settings = _settings(cluster, kubeconfig, max_jobs=_ADOPTED)
        async with system(root, [QUEUE], settings) as ours:
            await _queue(ours, _simulated({nodes.STAYS: "1"}), _ADOPTED)
            await ours.pause(QUEUE, paused=False)
            await ours.all_started(QUEUE)
            await ours.daemon.kill()
            while kubelets.followed:
                await asyncio.sleep(0.01)
            begin = time.monotonic()
            daemon = await ours.home.start("launch-agent", "--queue", QUEUE)
            ready, used = time.monotonic() - begin, cpu_seconds(daemon.pid)
            while kubelets.followed < _ADOPTED:
                await asyncio.sleep(0.01)
            followed = time.monotonic() - begin
            adopted = daemon.output().count("resuming an attempt of an earlier process")
            assert adopted == _ADOPTED, daemon.output()
    load = os.getloadavg()[0]
    return [
        Row(
            f"Kubernetes: {_ADOPTED} running jobs adopted after the agent's start",
            f"{ready:.1f} s, all logs followed after {followed:.1f} s",
            f"{used:.1f} s of processor time, load {load:.0f}",
            "≤ 5 s",
            ready <= 5,
        )
    ]


async def outage(root: Path) -> list[Row]:
    """The API server away from an agent: what it asks meanwhile, and how soon it knows all."""
    cluster = _cluster()
    async with (
        _namespace(cluster, root) as (namespace, kubeconfig),
        nodes.simulated_nodes(cluster, namespace) as kubelets,
        way_to_cluster(cluster, kubeconfig) as way,
    ):
        settings = _settings(cluster, kubeconfig, max_jobs=_ADOPTED)
        async with system(root, [QUEUE], settings) as ours:
            await _queue(ours, _simulated({nodes.STAYS: "1"}), _ADOPTED)
            await ours.pause(QUEUE, paused=False)
            await ours.all_started(QUEUE)
            way.refusing = True
            way.cut_all()
            await kubelets.end_all()
            await asyncio.sleep(_OUTAGE)
            rate = way.refused / _OUTAGE
            way.refusing = False
            begin = time.monotonic()
            await ours.all_ended(QUEUE)
            seconds = time.monotonic() - begin
    return [
        Row(
            f"Kubernetes: API server away for {_OUTAGE} s from {_ADOPTED} running jobs",
            f"{rate:.2f} requests a second",
            "–",
            "≤ 2 a second",
            rate <= 2,
        ),
        Row(
            "the same: all of them ended meanwhile; reported after its return",
            f"{seconds:.1f} s",
            f"load {os.getloadavg()[0]:.0f}",
            "≤ 15 s",
            seconds <= 15,
        ),
    ]
