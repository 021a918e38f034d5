"""Process jobs on a disk that is full: at their start, and while they write."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.ports.runner import (
    LOG_START,
    MAYBE_MISSING,
    LogPiece,
    NeverStarted,
    RunnerPort,
    Workload,
)
from agent.runners.process import processes
from agent.runners.process.processes import has_no_space
from agent.testing.runner_suite import ended, launched
from tests.contract.runner_drivers import ProcessDriver
from tests.infrastructure import mounts


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a disk")
    with mounts.small_disk(tmp_path / "small", "1m") as folder:
        yield folder


@pytest.fixture
async def driver(small: Path, threads: ThreadPoolExecutor) -> AsyncIterator[ProcessDriver]:
    driver = ProcessDriver(small, threads)
    yield driver
    await driver.clear()


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


async def pieces(runner: RunnerPort, workload: Workload) -> list[LogPiece]:
    return [piece async for piece in runner.logs(workload, LOG_START)]


async def test_a_start_without_room_says_so(driver: ProcessDriver, small: Path) -> None:
    runner = driver.runner()
    created = await runner.create(driver.running("item", "true"))
    fill(small)
    result = await runner.start(created)
    (small / "filler").unlink()
    assert isinstance(result, NeverStarted)
    assert isinstance(result.error, JobError)
    assert result.error.cause is Cause.DISK_FULL


async def test_output_that_found_no_room_is_marked_although_the_job_succeeded(
    driver: ProcessDriver,
) -> None:
    script = "head -c 4000000 /dev/zero; exit 0"
    runner = driver.runner()
    workload = await launched(runner, driver.running("item", "sh", "-c", script))
    read, ending = await asyncio.gather(pieces(runner, workload), ended(runner, workload))
    assert ending.exit_code == 0
    assert sum(len(piece.data) for piece in read) < 4_000_000
    assert read[-1].missing == MAYBE_MISSING


async def test_a_gap_is_marked_where_it_is(
    driver: ProcessDriver, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full for a time, while the log was followed."""
    seen = asyncio.Event()

    def observed(place: Path | int) -> bool:
        full = has_no_space(place)
        if full:
            seen.set()
        return full

    monkeypatch.setattr(processes, "has_no_space", observed)
    go, room = tmp_path / "go", small / "room"
    script = (
        f"echo before; head -c 4000000 /dev/zero > {room}; head -c 20000 /dev/zero;"
        f"while [ ! -e {go} ]; do sleep 0.02; done; rm {room}; echo after"
    )
    runner = driver.runner()
    workload = await launched(runner, driver.running("item", "sh", "-c", script))
    following = asyncio.create_task(pieces(runner, workload))
    await seen.wait()
    go.touch()
    read = await following
    assert (await ended(runner, workload)).exit_code == 0
    marked = [piece for piece in read if piece.missing]
    assert len(marked) == 1
    assert marked[0].data.endswith(b"after\n")
