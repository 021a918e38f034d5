"""The agent dies at any point of an attempt; its next process finishes it, started once."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.journal import Journal
from agent.model.phase import TERMINAL, Errored, Lost, Phase, Succeeded
from agent.testing.runner_suite import Scenario
from tests.unit.daemon.harness import CODE_JOB, IMAGE_JOB, Crash, Harness, eventually

POINTS = [
    (call, when)
    for call in ("claim", "create", "permit", "start", "watch", "finish", "destroy")
    for when in ("before", "after")
    # What never arrived was never held, and a poll that was not sent claims nothing.
    if (call, when) != ("claim", "before")
]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    made.executor.shutdown()


#: Where nobody can say whether the start was sent; a lost journal cannot say it anywhere
#: between the permit and the start.
DOUBTFUL = {("start", "before")}
DOUBTFUL_WITHOUT_JOURNAL = {*DOUBTFUL, ("permit", "after")}


@pytest.mark.parametrize(("call", "when"), POINTS)
async def test_a_short_job_survives_its_agent(harness: Harness, call: str, when: str) -> None:
    harness.engine.default = Scenario(output=b"first\nlast\n")
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash(call, when))
    async with harness.running(state=left):
        await harness.until_over(item)
    assert not set(item.history[:-1]) & TERMINAL
    assert len(harness.engine.created) == 1
    if (call, when) in DOUBTFUL:
        assert isinstance(item.outcome, Lost)
        assert harness.engine.starts(harness.name(item)) == 0
        return
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1
    assert bytes(item.logs["job"]) == b"first\nlast\n"


@pytest.mark.parametrize(("call", "when"), POINTS)
async def test_a_lost_journal_costs_precision_and_never_a_second_start(
    harness: Harness, call: str, when: str, tmp_path: Path
) -> None:
    item = harness.plane.submit(IMAGE_JOB)
    await harness.die(Crash(call, when))
    async with harness.running(state=tmp_path / "empty"):
        await harness.until_over(item)
    if (call, when) in DOUBTFUL_WITHOUT_JOURNAL:
        assert isinstance(item.outcome, Lost)
        assert harness.engine.starts(harness.name(item)) == 0
        return
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1


@pytest.mark.parametrize("journal", ["kept", "lost"])
async def test_an_engine_that_forgot_the_start_is_not_asked_again(
    harness: Harness, journal: str, tmp_path: Path
) -> None:
    """It was killed while it started the job, which ran; its agent died as well."""
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("start", "after"))
    harness.engine.forget_start(harness.name(item))
    async with harness.running(state=left if journal == "kept" else tmp_path / "empty"):
        await harness.until_over(item)
    assert isinstance(item.outcome, Lost)
    assert harness.engine.starts(harness.name(item)) == 1


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_permit_that_the_control_plane_lost_starts_nothing_again(
    harness: Harness, *, forgotten: bool
) -> None:
    """It was restored from a backup; the start was sent, and the container may be gone, too."""
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("start", "after"))
    item.phase = Phase.PREPARING
    if forgotten:
        harness.engine.forget_start(harness.name(item))
    else:
        harness.engine.vanish(harness.name(item))
    async with harness.running(state=left):
        await harness.until_over(item)
    assert isinstance(item.outcome, Lost)
    assert harness.engine.starts(harness.name(item)) == 1


async def test_two_deaths_before_the_start_cost_nothing(harness: Harness) -> None:
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("permit", "before"))
    left = await harness.die(Crash("permit", "after"), state=left)
    async with harness.running(state=left):
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1


@pytest.mark.parametrize("next_dies", [False, True])
async def test_a_workload_created_under_a_lost_lease_is_replaced(
    harness: Harness, *, next_dies: bool
) -> None:
    """Its token is void, its devices are another job's, its queue may have changed."""
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("create", "after"))
    harness.plane.lapse(item)
    if next_dies:  # it holds the item anew, and has created nothing for it yet
        left = await harness.die(Crash("claim", "after"))
    async with harness.running(state=left):
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1
    first, second = (request.lease.epoch for request in harness.engine.created)
    assert (first, second) == (1, item.epoch)


@pytest.mark.parametrize(
    ("step", "when"),
    [("start_sent", "before"), ("start_sent", "after"), ("outcome_known", "before"),
     ("outcome_known", "after")],
)  # fmt: skip
async def test_a_crash_around_a_write_of_the_journal(
    harness: Harness, step: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = Crash(step, when)
    whole = getattr(Journal, step)

    async def around(self: Journal, *args: object) -> None:
        if not crash.reached.is_set() or not harness.plane.registrations[1:]:
            await crash.around(step, "before")
        await whole(self, *args)
        if not harness.plane.registrations[1:]:
            await crash.around(step, "after")

    monkeypatch.setattr(Journal, step, around)
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(crash)
    monkeypatch.setattr(Journal, step, whole)
    async with harness.running(state=left):
        await harness.until_over(item)
    if (step, when) == ("start_sent", "after"):
        assert isinstance(item.outcome, Lost)
        assert harness.engine.starts(harness.name(item)) == 0
        return
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1


async def test_a_running_job_ends_while_its_agent_is_dead(harness: Harness) -> None:
    harness.engine.default = Scenario(output=b"x", exit_code=5, waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("start", "after"))
    harness.engine.release(harness.name(item))
    async with harness.running(state=left):
        await harness.until_over(item)
    assert item.outcome is not None
    assert item.outcome.message == "exit code 5"


async def test_what_vanished_after_a_possible_start_is_lost(harness: Harness) -> None:
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("start", "before"))
    harness.engine.vanish(harness.name(item))
    async with harness.running(state=left):
        await harness.until_over(item)
    assert isinstance(item.outcome, Lost)
    assert harness.engine.starts(harness.name(item)) == 0


async def test_what_vanished_after_the_start_is_never_run_again(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("start", "after"))
    harness.engine.vanish(harness.name(item))
    async with harness.running(state=left):
        await harness.until_over(item)
    assert isinstance(item.outcome, Lost)
    assert harness.engine.starts(harness.name(item)) == 1


async def test_a_stop_requested_while_the_agent_was_dead_is_obeyed(
    harness: Harness,
) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("start", "after"))
    harness.plane.request_stop(item)
    async with harness.running(state=left):
        await harness.until_over(item)
    assert item.phase.word == "stopped"


async def test_an_outcome_that_was_not_delivered_is_delivered_by_the_next_process(
    harness: Harness,
) -> None:
    harness.code.error = RuntimeError("a bug")
    item = harness.plane.submit(CODE_JOB)
    left = await harness.die(Crash("finish", "before"))
    harness.code.error = None
    async with harness.running(state=left):
        await harness.until_over(item)
    assert isinstance(item.outcome, Errored)
    assert "RuntimeError" in item.outcome.message


async def test_workloads_are_removed_only_when_their_attempt_is_over(harness: Harness) -> None:
    over, open_, hidden = (harness.plane.submit(IMAGE_JOB) for _ in range(3))
    harness.engine.default = Scenario(waits=True)
    async with harness.running():
        for item in (over, open_, hidden):
            await harness.until_running(item)
    over.outcome = Lost
    over.phase = next(iter(TERMINAL))
    open_.holder = hidden.holder = "another agent on this engine"
    harness.plane.hidden.add(hidden.id)
    async with harness.running(state=harness.root / "another"):
        await eventually(lambda: harness.name(over) not in harness.engine.workloads)
    assert harness.engine.workloads[harness.name(open_)].ending is None
    assert harness.engine.workloads[harness.name(hidden)].ending is None


async def test_an_engine_that_does_not_answer_delays_adoption(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("start", "after"))
    harness.engine.go_away()
    process = asyncio.create_task(harness.daemon(state=left).run())
    await harness.plane.until_called("register", 2)
    await harness.plane.until_called("renew", 3)
    harness.engine.come_back()
    harness.engine.release(harness.name(item))
    await harness.until_over(item)
    harness.last.stop()
    assert await process == 0
    assert item.outcome == Succeeded()
