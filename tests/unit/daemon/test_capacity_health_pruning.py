"""State folder, systemd notification, capacity, health, pruning."""

import asyncio
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.agent import HealthConfig
from agent.config.execution import PruneRule
from agent.daemon import service
from agent.daemon.capacity import CapacityTracker
from agent.daemon.process import SystemdNotifier, locked_state_folder
from agent.daemon.pruning import Pruner, prune_attempt_folders
from agent.model.capacity import Capacity, Demand, allocate, fits
from agent.model.errors import ConfigError, ConflictError
from agent.model.work import Lease
from agent.ports.runner import Workload
from agent.testing.runner_suite import Scenario
from tests.unit.daemon.harness import IMAGE_JOB, Harness, eventually


def test_an_installation_keeps_its_identity(tmp_path: Path) -> None:
    with locked_state_folder(tmp_path / "state") as first:
        pass
    with locked_state_folder(tmp_path / "state") as second:
        assert first == second
    with locked_state_folder(tmp_path / "other") as other:
        assert other != first


def test_a_second_process_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from agent.daemon.process import locked_state_folder\n"
        "try:\n"
        "    with locked_state_folder(Path(sys.argv[1])): pass\n"
        "except Exception as error: print(error)\n"
    )
    with locked_state_folder(tmp_path):
        told = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    assert f"pid {os.getpid()}" in told
    with pytest.raises(ConflictError), locked_state_folder(tmp_path), locked_state_folder(tmp_path):
        pass


def test_a_state_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"), locked_state_folder(tmp_path / "file"):
        pass


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_is_notified_of_ready_watchdog_and_stopping(
    harness: Harness, tmp_path: Path, abstract: bool
) -> None:
    address = f"\0launch-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(address)
        line.setblocking(False)
        harness.environ = {
            "NOTIFY_SOCKET": address.replace("\0", "@"),
            "WATCHDOG_USEC": "2000",
            "WATCHDOG_PID": str(os.getpid()),
        }
        heard: list[str] = []
        loop = asyncio.get_running_loop()
        async with harness.running():
            while not {"READY=1", "WATCHDOG=1"} <= {text.split("\n")[0] for text in heard}:
                heard.append((await loop.sock_recv(line, 4096)).decode())
        while not any(text.startswith("STOPPING=1") for text in heard):
            heard.append((await loop.sock_recv(line, 4096)).decode())


async def test_without_a_socket_systemd_is_not_notified(tmp_path: Path) -> None:
    SystemdNotifier({}).ready("x")
    SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).stopping("x")
    for environ in (
        {"NOTIFY_SOCKET": "x"},
        {"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"},
    ):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(SystemdNotifier(environ).run_watchdog(), 0.01)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([None, 1.0, 2.5]), st.booleans()),
        max_size=12,
    )
)
def test_devices_are_never_allocated_twice_and_all_are_released(
    requests: list[tuple[int, float | None, bool]],
) -> None:
    total = Capacity(slots=4, cpus=8.0, memory=100, gpus=("0", "1", "2"))
    capacity = CapacityTracker(total)
    held: dict[Lease, tuple[str, ...]] = {}
    for number, (gpus, cpus, release) in enumerate(requests):
        lease, demand = Lease("i", 1, number), Demand(cpus=cpus, gpus=gpus)
        if fits(demand, capacity.free):
            allocation = allocate(demand, capacity.free)
            assert not capacity.devices_in_use(allocation)
            capacity.allocate(lease, allocation)
            held[lease] = allocation.gpus
            flat = [gpu for gpus_ in held.values() for gpu in gpus_]
            assert len(flat) == len(set(flat))
        if release and held:
            capacity.free_allocation(gone := next(iter(held)))
            capacity.free_allocation(gone)
            del held[gone]
    for lease in held:
        capacity.free_allocation(lease)
    assert capacity.free == total


async def test_a_slot_is_free_again_when_a_job_ends(harness: Harness) -> None:
    harness.capacity = Capacity(slots=1)
    harness.engine.default = Scenario(waits=True)
    first, second = harness.plane.submit(IMAGE_JOB), harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(first)
        assert second.epoch == 0
        harness.engine.release(harness.name(first))
        await harness.until_running(second)


async def test_a_device_that_is_in_use_is_not_taken_again(harness: Harness) -> None:
    harness.capacity = Capacity(slots=2, gpus=("0",))
    harness.engine.default = Scenario(waits=True)
    first = harness.plane.submit({**IMAGE_JOB, "resources": {"gpus": 1}})
    async with harness.running():
        await harness.until_running(first)
        second = harness.plane.submit(IMAGE_JOB)
        whole = harness.plane.grant

        def doubly(request: object, identity: str) -> object:
            given = whole(request, identity)
            for item in given:
                item.allocation = first.allocation
            harness.plane.grant = whole
            return given

        harness.plane.grant = doubly
        second.allocation = None
        await harness.plane.until_called("release")


async def test_readyz_gives_the_reasons_for_not_being_ready(harness: Harness) -> None:
    harness.settings = {"health": HealthConfig(port=0)}
    ports: list[int] = []
    harness.engine.default = Scenario(exit_code=3)
    item = harness.plane.submit(IMAGE_JOB)
    whole = service.serve_health

    def spying(config: HealthConfig, status: object) -> object:
        @asynccontextmanager
        async def context() -> object:
            async with whole(config, status) as port:
                ports.append(port)
                yield port

        return context()

    service.serve_health = spying
    try:
        async with harness.running(), aiohttp.ClientSession() as session:
            await harness.until_over(item)
            base = f"http://127.0.0.1:{ports[0]}"
            assert (await _get(session, f"{base}/healthz")) == (200, "ok\n")
            assert (await _get(session, f"{base}/readyz")) == (200, "ok\n")
            _, metrics = await _get(session, f"{base}/metrics")
            assert (
                'launch_agent_outcomes_total{cause="RUN_EXIT_CODE",outcome="failed"} 1' in metrics
            )
            assert "launch_agent_free_slots 4" in metrics
            harness.engine.go_away()
            while (await _get(session, f"{base}/readyz"))[0] != 503:
                await asyncio.sleep(0.001)
            _, text = await _get(session, f"{base}/readyz")
            assert text.startswith("local-container: ")
            harness.engine.come_back()
    finally:
        service.serve_health = whole


async def test_a_port_in_use_is_named(harness: Harness) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        harness.settings = {"health": HealthConfig(port=taken.getsockname()[1])}
        with pytest.raises(ConfigError, match=str(taken.getsockname()[1])):
            await harness.daemon().run()


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with session.get(url) as response:
        return response.status, await response.text()


async def test_an_attempt_that_begins_while_folders_are_pruned_keeps_its_folder(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    class Attempts:
        names: frozenset[str] = frozenset()

    class Runner:
        async def owned(self) -> list[Workload]:
            attempts.names = frozenset({"begins"})
            return []

    attempts = Attempts()
    for name in ("begins", "left-over", "half.removed"):
        (tmp_path / name / "files").mkdir(parents=True)
    backends = {"local-container": SimpleNamespace(runner=Runner())}
    await prune_attempt_folders(tmp_path, attempts, backends, threads)
    assert [folder.name for folder in tmp_path.iterdir()] == ["begins"]


async def test_all_kinds_are_pruned_and_what_is_in_use_stays(harness: Harness) -> None:
    async def broken(max_age: float, max_bytes: int) -> int:
        raise OSError("no such disk")

    harness.settings = {"prune": {"interval": 5.0}}
    harness.pruners = (
        Pruner("broken", PruneRule(max_age=1.0, max_size=1), broken),
        Pruner("images", PruneRule(max_age=2.0, max_size=3), harness.builder.prune),
    )
    harness.engine.default = Scenario(waits=True)
    attempts = harness.root / "state" / "attempts"
    (attempts / "left-over").mkdir(parents=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        await eventually(lambda: len(harness.builder.pruned) >= 2)
        await eventually(lambda: not (attempts / "left-over").exists())
        assert [folder.name for folder in attempts.iterdir()] == [harness.name(item)]
        harness.plane.take_over(item)
        item.phase = item.phase.SUCCEEDED
        await eventually(lambda: harness.name(item) not in harness.engine.workloads)
    assert harness.builder.pruned[0] == (2.0, 3)
