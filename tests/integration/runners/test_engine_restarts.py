"""An exit code counts only if one process of the engine saw the job start and end."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.model.cause import Cause
from agent.ports.runner import (
    LOG_START,
    MAYBE_MISSING,
    Ending,
    LogPiece,
    RunnerPort,
    Started,
    StartUnknown,
    Workload,
    WorkloadState,
)
from agent.runners.docker import runner as docker_runner
from agent.testing.runner_suite import Scenario, bare, ended, first_piece, launched
from tests.contract.runner_drivers import DockerDriver
from tests.infrastructure.engine import Engine

pytestmark = pytest.mark.docker

LOST = Cause.LOST_ENGINE


def stop(engine: Engine) -> None:
    engine.stop()


def kill(engine: Engine) -> None:
    engine.daemon.stop(signal.SIGKILL)


HOWS = pytest.mark.parametrize("down", [stop, kill])
Down = Callable[[Engine], None]


async def restart(engine: Engine, down: Down) -> None:
    await asyncio.to_thread(down, engine)
    await asyncio.to_thread(engine.start)


async def running(driver: DockerDriver, item: str, exit_code: int = 0, **more: object) -> Workload:
    """A job that an agent started which is gone now."""
    runner = driver.runner()
    scenario = Scenario(b"up\n", exit_code=exit_code, waits=True, **more)
    workload = await launched(runner, driver.request(scenario, item))
    await first_piece(runner, workload)
    await runner.close()
    return workload


async def over(driver: DockerDriver, item: str, exit_code: int) -> Workload:
    runner = driver.runner()
    workload = await launched(runner, driver.request(Scenario(b"up\n", exit_code=exit_code), item))
    await ended(runner, workload)
    await runner.close()
    return workload


async def adopted(driver: DockerDriver, workload: Workload) -> Ending:
    """What an agent is told that is started now."""
    found = await driver.runner().find(workload.name)
    assert found is not None
    assert found.started_at is not None
    return bare(await ended(driver.runner(), found))


@HOWS
async def test_agent_and_engine_were_down_together(
    engine: Engine, own: DockerDriver, down: Down
) -> None:
    """As with a restart of the machine: nobody knows whether the codes are the jobs' own."""
    jobs = [
        await over(own, "succeeded", 0),
        await over(own, "failed", 3),
        await running(own, "ended-by-the-engine"),
        await running(own, "killed-by-the-engine", ignores_term=down is kill),
    ]
    await restart(engine, down)
    assert [(await adopted(own, job)).cause for job in jobs] == [LOST] * len(jobs)


@HOWS
async def test_the_agent_watches_while_the_engine_is_restarted(
    engine: Engine, own: DockerDriver, down: Down
) -> None:
    runner = own.runner()
    workload = await launched(runner, own.request(Scenario(b"up\n", waits=True)))
    await first_piece(runner, workload)
    watching = asyncio.create_task(ended(runner, workload))
    await restart(engine, down)
    ending = await watching
    assert ending.cause is LOST
    assert "was restarted" in ending.message


async def test_only_the_agent_was_down(own: DockerDriver) -> None:
    """The engine saw all of it: the code counts, also after the marker was pruned."""
    first, second = await running(own, "first", 3), await running(own, "second", 4)
    for job in (first, second):
        await own.release(job.name)
        own.client.wait(job.id)
    assert await adopted(own, first) == Ending(3)
    own.client.prune_containers({"label": ["launch-agent.kind=engine-marker"]})
    assert await adopted(own, second) == Ending(4)


@HOWS
async def test_a_job_that_outlives_its_engine_ends_under_the_next_one(
    live_engine: Engine, live: DockerDriver, down: Down
) -> None:
    """That engine tells the true code, to an agent that found the job running under it."""
    job = await running(live, "outlives", 3)
    await restart(live_engine, down)
    runner = live.runner()
    found = await runner.find(job.name)
    assert found is not None
    assert found.state is WorkloadState.RUNNING
    watching = asyncio.create_task(ended(runner, found))
    stream = await runner._process.stream()
    while found.id not in stream.running:
        await asyncio.sleep(0.01)
    await live.release(job.name)
    assert bare(await watching) == Ending(3)


@HOWS
async def test_a_job_that_ends_while_its_engine_is_away_is_lost(
    live_engine: Engine, live: DockerDriver, down: Down
) -> None:
    """The next engine says 255, whatever the job's code was."""
    job = await running(live, "alone", 3)
    await asyncio.to_thread(down, live_engine)
    await live.release(job.name)
    while (await asyncio.to_thread(processes_of, job)) > 0:
        await asyncio.sleep(0.05)
    await asyncio.to_thread(live_engine.start)
    assert live.client.inspect_container(job.id)["State"]["ExitCode"] == 255
    assert (await adopted(live, job)).cause is LOST


def processes_of(job: Workload) -> int:
    """How many processes are in the job's cgroup."""
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                cgroup = (entry / "cgroup").read_text()
            except OSError:
                continue
            count += job.id in cgroup
    return count


async def check_marker(engine: Engine, driver: DockerDriver) -> None:
    """The facts about the engine on which the rule is built."""
    markers = []
    for down in (stop, kill):
        runner = driver.runner()
        stream = await runner._process.stream()
        markers.append(stream.marker)
        assert (await driver.runner()._process.stream()).marker == stream.marker
        await restart(engine, down)
        assert await runner._containers.inspect(stream.marker) is None
        assert stream.ended
        markers.append((await runner._process.stream()).marker)
    assert len(set(markers)) == 3
    assert "" not in markers


async def test_the_marker_lives_as_long_as_the_engines_process(
    engine: Engine, own: DockerDriver
) -> None:
    await check_marker(engine, own)


async def test_the_marker_does_not_outlive_its_engine_with_live_restore(
    live_engine: Engine, live: DockerDriver
) -> None:
    await launched(live.runner(), live.request(Scenario(waits=True)))
    await check_marker(live_engine, live)


async def test_a_kill_by_somebody_else_is_the_jobs_end(own: DockerDriver) -> None:
    """`docker stop` looks like an engine that stops, until that engine goes on."""
    runner = own.runner()
    workload = await launched(runner, own.request(Scenario(b"up\n", waits=True)))
    await first_piece(runner, workload)
    watching = asyncio.create_task(ended(runner, workload))
    await asyncio.to_thread(own.client.stop, workload.id)
    assert bare(await watching) == Ending(143, signal=15)


async def test_an_engine_that_is_killed_in_a_start_is_not_asked_again(
    engine: Engine, own: DockerDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the job's first line, which it writes itself; the agent's request is under way."""
    monkeypatch.setattr(docker_runner, "_START_PAUSE", 0.2)
    runner = own.runner()
    script = "echo >> /scene/starts; while :; do sleep 0.05; done"
    request, folder = own.tracing("item", script)
    trace = folder / "starts"
    created = await runner.create(request)
    starting = asyncio.create_task(runner.start(created))
    while not trace.exists():
        await asyncio.sleep(0.001)
    await restart(engine, kill)
    result = await starting
    assert isinstance(result, Started | StartUnknown)
    if isinstance(result, Started):
        assert (await ended(runner, result.workload)).cause is LOST
    settled = await own.runner().settle(created)
    assert isinstance(settled, Started | StartUnknown)
    assert trace.read_text() == "\n"


@pytest.mark.parametrize("same_agent", [True, False])
async def test_a_log_of_a_job_that_outlived_its_engine_is_marked(
    live_engine: Engine, live: DockerDriver, *, same_agent: bool
) -> None:
    """What it writes while no engine reads, or the engine had read and not stored, is lost."""
    runner = live.runner()
    script = "echo first; while [ ! -e /scene/go ]; do sleep 0.02; done; echo last"
    request, folder = live.tracing("item", script)
    workload = await launched(runner, request)
    await first_piece(runner, workload)
    whole = asyncio.create_task(pieces(runner, workload)) if same_agent else None
    await restart(live_engine, kill)
    (folder / "go").touch()
    read = await (whole or pieces(live.runner(), workload))
    assert [piece.missing for piece in read][-1] == MAYBE_MISSING
    assert b"".join(piece.data for piece in read).startswith(b"first\n")


async def pieces(runner: RunnerPort, workload: Workload) -> list[LogPiece]:
    return [piece async for piece in runner.logs(workload, LOG_START)]
