"""The engine goes away under a running job: a second engine of our own, stopped for real."""

import asyncio
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.docker.client import Engine as Client
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.testing.runner_suite import Play, ended, first_piece, launched, raised, read_all
from tests.contract.runner_stages import DockerStage
from tests.infrastructure.engine import Engine, docker
from tests.infrastructure.state import DockerFacts

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def engine(docker_engine: DockerFacts) -> AsyncIterator[Engine]:
    """An engine that may be stopped: nobody else uses it."""
    base = Path(tempfile.mkdtemp())
    own = Engine(base / "data", base / "run", base / "engine.sock", isolated=True)
    own.start()
    archive = base / "image.tar"
    docker(docker_engine.host, "save", "--output", archive, docker_engine.shell_image)
    docker(own.host, "load", "--input", archive)
    yield own
    own.stop()
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
async def stage(
    engine: Engine, docker_engine: DockerFacts, tmp_path: Path, threads: ThreadPoolExecutor
) -> AsyncIterator[DockerStage]:
    if not engine.daemon.pid():
        engine.start()
    stage = DockerStage(tmp_path, threads, engine.host, docker_engine.shell_image)
    yield stage
    if not engine.daemon.pid():
        engine.start()
    await stage.clear()


async def running_job(stage: DockerStage, outage_timeout: float) -> tuple:
    runner = stage.runner(outage_timeout=outage_timeout)
    workload = await launched(runner, stage.request(Play(b"up\n", waits=True)))
    await first_piece(runner, workload)
    return runner, workload


async def test_an_engine_that_is_restarted_ends_the_job_and_that_is_not_its_exit_code(
    engine: Engine, stage: DockerStage
) -> None:
    runner, workload = await running_job(stage, outage_timeout=60)
    waiting = asyncio.create_task(ended(runner, workload))
    reading = asyncio.create_task(read_all(runner, workload))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(engine.stop)
    await asyncio.to_thread(engine.start)
    ending = await waiting
    assert ending.cause is Cause.LOST_ENGINE
    assert "stopped under the container" in ending.message
    assert await reading == b"up\n"


async def test_an_engine_that_stays_away_is_given_up(engine: Engine, stage: DockerStage) -> None:
    runner, workload = await running_job(stage, outage_timeout=0.5)
    waiting = asyncio.create_task(ended(runner, workload))
    reading = asyncio.create_task(read_all(runner, workload))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(engine.stop)
    for call in (waiting, reading, runner.find(workload.name), runner.backend_id()):
        error = await raised(JobError, call)
        assert error.cause is Cause.LOST_ENGINE
        assert str(engine.socket) in error.message


async def test_a_killed_engine_comes_back_to_what_it_finds(
    engine: Engine, stage: DockerStage
) -> None:
    """Without live restore it ends what ran; the cause stays the engine's."""
    runner, workload = await running_job(stage, outage_timeout=60)
    waiting = asyncio.create_task(ended(runner, workload))
    await asyncio.sleep(0.2)
    pid = engine.daemon.pid()
    assert pid is not None
    subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(pid)], check=True)
    await asyncio.to_thread(engine.stop)
    await asyncio.to_thread(engine.start)
    assert (await waiting).cause is Cause.LOST_ENGINE


async def test_an_engine_that_was_never_there_is_named() -> None:
    client = Client("unix:///run/no-engine-here.sock")
    error = await raised(JobError, client.call("GET", "/_ping"))
    assert error.cause is Cause.LOST_ENGINE
    assert "no-engine-here.sock" in error.message
    await client.close()
