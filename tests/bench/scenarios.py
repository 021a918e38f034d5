"""What is measured, each beside its own yardstick in the same run."""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agent.model.work import LABEL_ITEM
from tests.bench import bare, cluster
from tests.bench.building import building, cluster_build
from tests.bench.control import control
from tests.bench.flood import flood
from tests.bench.jobs import authoring, git_difference
from tests.bench.ours import System, resident, share_of_core, system
from tests.bench.pages import pages
from tests.bench.runs import charts, logging, many, scan
from tests.bench.table import Row
from tests.e2e.harness.home import BIN, Home
from tests.infrastructure import state

QUEUE = "default"
NETWORK = "launch-agent"
PROCESSES: dict[str, Any] = {"builder": {"type": "virtualenv"}}
NO_ENGINE: dict[str, Any] = PROCESSES | {"runners": {"local-container": {"enabled": False}}}


def image_spec(image: str, *command: str) -> dict[str, Any]:
    return {"docker": {"docker_image": image}, "overrides": {"entry_point": list(command)}}


async def dispatch(root: Path) -> list[Row]:
    """Submit → container started, image present, beside create and start by a bare script."""
    docker = state.load().docker
    assert docker is not None
    async with (
        system(root, [QUEUE]) as ours,
        bare.Engine.connect(docker.host) as engine,
    ):
        await ours.ended(await ours.submit(QUEUE, image_spec(docker.shell_image, "true")))
        delays, yardstick = [], []
        for _ in range(30):
            yardstick.append(await bare.delay_to_start(engine, docker.shell_image, NETWORK))
            delays.append(await _submit_to_start(ours, engine, docker.shell_image))
    extra = 1000 * (statistics.median(delays) - statistics.median(yardstick))
    return [
        Row(
            "submit → container started, median of 30",
            f"{1000 * statistics.median(delays):.0f} ms",
            f"bare create + start {1000 * statistics.median(yardstick):.0f} ms",
            f"≤ 50 ms above (here {extra:+.0f} ms)",
            extra <= 50,
        )
    ]


async def _submit_to_start(ours: System, engine: bare.Engine, image: str) -> float:
    begin = time.time()
    item = await ours.submit(QUEUE, image_spec(image, "true"))
    shown = await ours.ended(item)
    assert shown["phase"] == "SUCCEEDED", shown
    return await engine.started_at(f"{LABEL_ITEM}={item}", begin) - begin


async def containers(root: Path) -> list[Row]:
    """Short container jobs through the whole system, beside the bare engine's rate."""
    docker = state.load().docker
    assert docker is not None
    jobs, width = 60, 4
    async with (
        system(root, [QUEUE], {"max_jobs": width}) as ours,
        bare.Engine.connect(docker.host) as engine,
    ):
        spec = image_spec(docker.shell_image, "true")
        await ours.ended(await ours.submit(QUEUE, spec))
        first = await bare.container_rate(engine, docker.shell_image, NETWORK, jobs, width)
        rate = await _rate(ours, QUEUE, spec, jobs)
        second = await bare.container_rate(engine, docker.shell_image, NETWORK, jobs, width)
    yardstick = statistics.mean((first, second))
    return [
        Row(
            f"short container jobs, {width} at a time",
            f"{rate:.1f}/s",
            f"bare engine {yardstick:.1f}/s",
            f"≥ 90 % (here {rate / yardstick:.0%})",
            rate >= 0.9 * yardstick,
        )
    ]


async def _rate(ours: System, queue: str, spec: dict[str, Any], jobs: int) -> float:
    await ours.pause(queue, paused=True)
    for _ in range(jobs):
        await ours.submit(queue, spec)
    begin = time.monotonic()
    await ours.pause(queue, paused=False)
    await ours.all_ended(queue)
    return jobs / (time.monotonic() - begin)


async def processes(root: Path) -> list[Row]:
    """Short process jobs through the whole system, beside bare child processes."""
    jobs, width = 200, 4
    code = root / "code"
    code.mkdir()
    (code / "main.py").write_text("print('hello')\n")
    async with system(root, [QUEUE], {"max_jobs": width, **NO_ENGINE}) as ours:
        home = Home(root)
        flags = ("--uri", str(code), "--entry-point", "python main.py", "--queue", QUEUE)
        submitted = await home.launch("submit", *flags, "--json")
        assert submitted.code == 0, submitted.err
        item = submitted.json()["id"]
        await ours.ended(item)
        shown = await ours.query("query S($id: ID!) { launchItem(id: $id) { runSpec } }", id=item)
        argv = [sys.executable, str(code / "main.py")]
        first = await bare.process_rate(argv, jobs, width)
        job = {"job": shown["launchItem"]["runSpec"]["job"]}
        rate = await _rate(ours, QUEUE, job, jobs)
        second = await bare.process_rate(argv, jobs, width)
    yardstick = statistics.mean((first, second))
    return [
        Row(
            f"short process jobs, {width} at a time",
            f"{rate:.1f}/s",
            f"bare child processes {yardstick:.1f}/s",
            f"≥ 50 % (here {rate / yardstick:.0%})",
            rate >= 0.5 * yardstick,
        )
    ]


async def idle(root: Path) -> list[Row]:
    """Memory and processor time while nothing happens, with and without a control plane."""
    rows: list[Row] = []
    async with system(root, [QUEUE]) as both:
        await asyncio.sleep(5)
        share = await share_of_core(both.daemon.pid, 30)
        rows.append(_idle_row("agent with embedded plane", resident(both.daemon.pid), share, 110))
        alone = Home(root / "alone", _pointing_at(root))
        (root / "alone").mkdir()
        daemon = await alone.start("launch-agent", "--queue", QUEUE, "--name", "alone")
        try:
            await asyncio.sleep(5)
            share = await share_of_core(daemon.pid, 30)
            rows.append(_idle_row("agent alone", resident(daemon.pid), share, 65))
            await daemon.terminate()
        finally:
            await alone.close()
    return rows


def _pointing_at(root: Path) -> dict[str, str]:
    found = json.loads((root / "state" / "embedded.json").read_text())
    return {"LAUNCH_SERVER": found["url"], "LAUNCH_API_KEY": found["api_key"]}


def _idle_row(what: str, memory: float, share: float, limit: float) -> Row:
    return Row(
        f"{what}, idle",
        f"{memory:.0f} MiB, {share:.2%} of a core",
        "–",
        f"≤ {limit:.0f} MiB, ≤ 0.5 %",
        memory <= limit and share <= 0.005,
    )


async def startup(root: Path) -> list[Row]:
    """Time from exec to the first claim waiting, and of `launch --version`."""
    for name in ("embedded", "server", "against"):
        (root / name).mkdir()
    embedded = await _median_ready(root / "embedded", {})
    async with system(root / "server", [QUEUE]):
        against = await _median_ready(root / "against", _pointing_at(root / "server"))
    home = Home(root)
    versions = []
    for _ in range(10):
        begin = time.monotonic()
        answer = await home.run(str(BIN / "launch"), "--version")
        versions.append(time.monotonic() - begin)
        assert answer.code == 0, answer.err
    bare_python = []
    for _ in range(10):
        begin = time.monotonic()
        await home.run(str(BIN / "python"), "-c", "pass")
        bare_python.append(time.monotonic() - begin)
    version = statistics.median(versions)
    return [
        Row("ready, embedded plane", f"{embedded:.2f} s", "–", "≤ 2 s", embedded <= 2),
        Row("ready, against a server", f"{against:.2f} s", "–", "≤ 1 s", against <= 1),
        Row(
            "launch --version",
            f"{1000 * version:.0f} ms",
            f"python -c pass {1000 * statistics.median(bare_python):.0f} ms",
            "≤ 150 ms",
            version <= 0.15,
        ),
    ]


async def _median_ready(root: Path, extra: dict[str, str]) -> float:
    delays = []
    home = Home(root, extra)
    home.configure({"control": {"port": 0}})
    try:
        for _ in range(5):
            begin = time.monotonic()
            daemon = await home.start("launch-agent", "--queue", QUEUE, "--name", "ready")
            delays.append(time.monotonic() - begin)
            await daemon.terminate()
    finally:
        await home.close()
    return statistics.median(delays[1:])


async def rebuild(root: Path) -> list[Row]:
    """A change of code only, and no change at all, beside the first build."""
    code = root / "code"
    code.mkdir()
    (code / "requirements.txt").write_text("six\n")
    (code / "main.py").write_text(f"import six; print('{root}')\n")
    home = Home(root)
    times: list[float] = []
    async with system(root, [QUEUE]) as ours:
        for change in ("first", "code", "nothing"):
            if change == "code":
                (code / "main.py").write_text(f"import six; print('changed', '{root}')\n")
            submitted = await home.launch(
                "submit", "--uri", str(code), "-E", "python main.py", "-q", QUEUE, "--json"
            )
            assert submitted.code == 0, submitted.err
            begin = time.monotonic()
            shown = await ours.ended(submitted.json()["id"])
            assert shown["phase"] == "SUCCEEDED", shown
            times.append(time.monotonic() - begin)
            reused = str(shown["facts"].get("image_reused")).lower() == "true"
            assert reused == (change == "nothing"), shown["facts"]
    first, changed, unchanged = times
    return [
        Row(
            "submit → ended after a change of code only",
            f"{changed:.1f} s",
            f"first build {first:.1f} s",
            "dependencies not reinstalled",
            changed < first,
        ),
        Row(
            "submit → ended, nothing changed",
            f"{unchanged:.1f} s",
            f"after a change of code {changed:.1f} s",
            "no build",
            unchanged < changed,
        ),
    ]


SCENARIOS: dict[str, Callable[[Path], Awaitable[list[Row]]]] = {
    "dispatch": dispatch,
    "containers": containers,
    "processes": processes,
    "idle": idle,
    "startup": startup,
    "rebuild": rebuild,
    "building": building,
    "cluster-build": cluster_build,
    "authoring": authoring,
    "git": git_difference,
    "kubernetes-dispatch": cluster.dispatch,
    "kubernetes-adoption": cluster.adoption,
    "kubernetes-scale": cluster.scale,
    "kubernetes-rate": cluster.rate,
    "kubernetes-outage": cluster.outage,
    "logging": logging,
    "scan": scan,
    "charts": charts,
    "many-runs": many,
    "pages": pages,
    "flood": flood,
    "control": control,
}
