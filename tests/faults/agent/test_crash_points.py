"""The agent dies at any point of an attempt; its next process finishes it, started once."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.journal import Journal
from agent.model.outcome import Errored, Lost, Succeeded
from agent.model.phase import TERMINAL
from agent.testing.scripted_runner import Play
from tests.unit.daemon.bench import CODE_JOB, IMAGE_JOB, Bench, Crash

POINTS = [
    (call, when)
    for call in ("claim", "create", "permit", "start", "wait", "finish", "destroy")
    for when in ("before", "after")
    # What never arrived was never held, and a poll that was not sent claims nothing.
    if (call, when) != ("claim", "before")
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.executor.shutdown()


@pytest.mark.parametrize(("call", "when"), POINTS)
async def test_a_short_job_survives_its_agent(bench: Bench, call: str, when: str) -> None:
    bench.engine.default = Play(output=b"first\nlast\n")
    item = bench.plane.submit(IMAGE_JOB)
    left = await bench.die(Crash(call, when))
    async with bench.running(state=left):
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bench.engine.starts(bench.name(item)) == 1
    assert len(bench.engine.created) == 1
    assert bytes(item.logs["job"]) == b"first\nlast\n"
    assert not set(item.history[:-1]) & TERMINAL


@pytest.mark.parametrize(("call", "when"), POINTS)
async def test_a_lost_journal_costs_precision_and_never_a_second_start(
    bench: Bench, call: str, when: str, tmp_path: Path
) -> None:
    item = bench.plane.submit(IMAGE_JOB)
    await bench.die(Crash(call, when))
    async with bench.running(state=tmp_path / "empty"):
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bench.engine.starts(bench.name(item)) == 1


@pytest.mark.parametrize("next_dies", [False, True])
async def test_what_a_lost_lease_created_is_made_anew_for_the_next(
    bench: Bench, *, next_dies: bool
) -> None:
    """Its token is void, its devices are another job's, its queue may have changed."""
    item = bench.plane.submit(IMAGE_JOB)
    left = await bench.die(Crash("create", "after"))
    bench.plane.lapse(item)
    if next_dies:  # it holds the item anew, and has created nothing for it yet
        left = await bench.die(Crash("claim", "after"))
    async with bench.running(state=left):
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bench.engine.starts(bench.name(item)) == 1
    first, second = (request.lease.epoch for request in bench.engine.created)
    assert (first, second) == (1, item.epoch)


@pytest.mark.parametrize(
    ("step", "when"),
    [("start_intended", "before"), ("start_intended", "after"), ("concluded", "before"),
     ("concluded", "after")],
)  # fmt: skip
async def test_a_death_around_a_write_of_the_journal(
    bench: Bench, step: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = Crash(step, when)
    whole = getattr(Journal, step)

    async def around(self: Journal, *args: object) -> None:
        if not crash.reached.is_set() or not bench.plane.hellos[1:]:
            await crash.around(step, "before")
        await whole(self, *args)
        if not bench.plane.hellos[1:]:
            await crash.around(step, "after")

    monkeypatch.setattr(Journal, step, around)
    item = bench.plane.submit(IMAGE_JOB)
    left = await bench.die(crash)
    monkeypatch.setattr(Journal, step, whole)
    async with bench.running(state=left):
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bench.engine.starts(bench.name(item)) == 1


async def test_a_running_job_ends_while_its_agent_is_dead(bench: Bench) -> None:
    bench.engine.default = Play(output=b"x", exit_code=5, waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    left = await bench.die(Crash("start", "after"))
    bench.engine.release(bench.name(item))
    async with bench.running(state=left):
        await bench.until_over(item)
    assert item.outcome is not None
    assert item.outcome.message == "exit code 5"


async def test_what_vanished_after_a_possible_start_is_lost(bench: Bench) -> None:
    item = bench.plane.submit(IMAGE_JOB)
    left = await bench.die(Crash("start", "before"))
    bench.engine.vanish(bench.name(item))
    async with bench.running(state=left):
        await bench.until_over(item)
    assert isinstance(item.outcome, Lost)
    assert bench.engine.starts(bench.name(item)) == 0


async def test_what_vanished_after_the_start_is_never_run_again(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    left = await bench.die(Crash("start", "after"))
    bench.engine.vanish(bench.name(item))
    async with bench.running(state=left):
        await bench.until_over(item)
    assert isinstance(item.outcome, Lost)
    assert bench.engine.starts(bench.name(item)) == 1


async def test_a_stop_that_was_asked_for_while_the_agent_was_dead_is_obeyed(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    left = await bench.die(Crash("start", "after"))
    bench.plane.request_stop(item)
    async with bench.running(state=left):
        await bench.until_over(item)
    assert item.phase.word == "stopped"


async def test_an_outcome_that_was_not_delivered_is_delivered_by_the_next_process(
    bench: Bench,
) -> None:
    bench.code.error = RuntimeError("a bug")
    item = bench.plane.submit(CODE_JOB)
    left = await bench.die(Crash("finish", "before"))
    bench.code.error = None
    async with bench.running(state=left):
        await bench.until_over(item)
    assert isinstance(item.outcome, Errored)
    assert "RuntimeError" in item.outcome.message


async def test_leftovers_are_swept_only_when_their_attempt_is_over(bench: Bench) -> None:
    over, open_, hidden = (bench.plane.submit(IMAGE_JOB) for _ in range(3))
    bench.engine.default = Play(waits=True)
    async with bench.running():
        for item in (over, open_, hidden):
            await bench.until_running(item)
    over.outcome = Lost
    over.phase = next(iter(TERMINAL))
    open_.holder = hidden.holder = "another agent on this engine"
    bench.plane.hidden.add(hidden.id)
    async with bench.running(state=bench.root / "another"):
        while bench.name(over) in bench.engine.workloads:
            await asyncio.sleep(0.001)
    assert bench.engine.workloads[bench.name(open_)].ending is None
    assert bench.engine.workloads[bench.name(hidden)].ending is None


async def test_an_engine_that_does_not_answer_delays_adoption(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    left = await bench.die(Crash("start", "after"))
    bench.engine.go_away()
    process = asyncio.create_task(bench.daemon(state=left).run())
    await bench.plane.until_called("register", 2)
    await bench.plane.until_called("renew", 3)
    bench.engine.come_back()
    bench.engine.release(bench.name(item))
    await bench.until_over(item)
    bench.last.stop()
    assert await process == 0
    assert item.outcome == Succeeded()
