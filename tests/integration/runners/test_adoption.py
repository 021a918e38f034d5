"""An agent is killed with -9 while its job runs: the next one misses nothing."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from agent.ports.runner import WorkloadState
from agent.testing.runner_suite import Scenario, ended, read_all, started_before
from tests.contract.runner_drivers import DockerDriver, ProcessDriver

STARTER = Path(__file__).with_name("starter.py")
REPOSITORY = Path(__file__).parents[3]


async def start_and_be_killed(kind: str, root: Path, control_plane_id: str, *engine: str) -> None:
    agent = await asyncio.create_subprocess_exec(
        sys.executable,
        STARTER,
        kind,
        root,
        control_plane_id,
        *engine,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert agent.stdout is not None
    assert await agent.stdout.readline()
    agent.send_signal(signal.SIGKILL)
    assert await agent.wait() == -signal.SIGKILL


async def adopt(driver: DockerDriver | ProcessDriver) -> str:
    """What the next agent does; returns the workload's name."""
    runner = driver.runner()
    (found,) = await runner.owned()
    assert found.state is WorkloadState.RUNNING
    assert found.started_at is not None
    same = await runner.create(driver.request(Scenario(b"first line\nlast line\n")))
    assert same.id == found.id
    await started_before(runner, found)
    reading = asyncio.create_task(read_all(runner, found))
    await driver.release(found.name)
    assert (await ended(runner, found)).exit_code == 5
    assert await reading == b"first line\nlast line\n"
    assert await driver.starts(found.name) == 1
    return found.name


async def test_a_process_outlives_its_agent(processes: ProcessDriver, tmp_path: Path) -> None:
    await start_and_be_killed("process", tmp_path, processes.folders.control_plane_id)
    await adopt(processes)


async def test_a_process_that_ended_without_an_agent_is_reported(
    processes: ProcessDriver, tmp_path: Path
) -> None:
    await start_and_be_killed("process", tmp_path, processes.folders.control_plane_id)
    runner = processes.runner()
    (found,) = await runner.owned()
    await processes.release(found.name)
    assert (await ended(runner, found)).exit_code == 5
    (over,) = await processes.runner().owned()
    assert over.state is WorkloadState.EXITED
    assert over.ending is not None
    assert over.ending.exit_code == 5


@pytest.mark.docker
async def test_a_container_outlives_its_agent(containers: DockerDriver, tmp_path: Path) -> None:
    engine = (containers.config.host or "", containers.image.reference)
    await start_and_be_killed("docker", tmp_path, containers.folders.control_plane_id, *engine)
    name = await adopt(containers)
    assert containers.events(name, "create") == 1
    assert containers.events(name, "start") == 1
