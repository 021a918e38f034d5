"""Before the permit, trouble is the agent's: items go back to their queue, and claims pause."""

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.daemon import conditions
from agent.model.cause import Cause
from agent.model.errors import (
    AuthenticationError,
    JobError,
    PermissionDeniedError,
    ServerError,
    UnavailableError,
    UnreachableError,
)
from agent.model.phase import Errored, Phase, Succeeded
from agent.model.protocol import ConditionKind
from tests.infrastructure.fake_item import FakeItem
from tests.unit.daemon.harness import CODE_JOB, IMAGE_JOB, Harness

AWAY = JobError(Cause.LOST_ENGINE, "The scripted engine does not answer.")
GONE = UnavailableError(Cause.BUILD_UNAVAILABLE, "The buildkitd at tcp://b:1 does not answer (no).")


@contextmanager
def failing(harness: Harness, step: str) -> Iterator[None]:
    """Engine or builder are gone, and this step is what meets it."""
    harness.engine.go_away()
    if step == "image":
        harness.images.error = UnavailableError(Cause.LOST_ENGINE, AWAY.message)
    elif step == "build":
        harness.builder.error = JobError(Cause.BUILD_FAILED, "error reading from server: EOF")
    yield
    harness.engine.come_back()
    harness.images.error = harness.builder.error = None


@pytest.mark.parametrize("step", ["image", "build", "create"])
async def test_forty_jobs_outlive_an_engine_that_is_gone(harness: Harness, step: str) -> None:
    """The agent is idle when the engine dies: its poll is open, its last look was good."""
    spec = CODE_JOB if step == "build" else IMAGE_JOB
    async with harness.running():
        await harness.plane.until_called("claim")
        with failing(harness, step):
            items = [harness.plane.submit(spec) for _ in range(40)]
            await harness.plane_until(lambda: bool(harness.plane.conditions))
            (condition,) = harness.plane.conditions
            assert condition.kind is ConditionKind.ENGINE_UNREACHABLE
            await harness.renewals(3)
            await harness.plane_until(lambda: all(item.phase is Phase.QUEUED for item in items))
            asked = len(harness.plane.requests)
            await harness.renewals(5)
            assert len(harness.plane.requests) == asked
        for item in items:
            await harness.until_over(item)
    assert {item.outcome for item in items} == {Succeeded()}
    assert not harness.plane.conditions
    assert all(item.lease_losses == 0 for item in items)
    assert all(harness.engine.starts(harness.name(item)) == 1 for item in items)


async def returned(harness: Harness, item: FakeItem, times: int = 1) -> None:
    await harness.plane_until(lambda: len(item.releases) >= times)


async def test_a_returned_item_says_why_in_its_event_and_in_its_log(harness: Harness) -> None:
    harness.images.error = UnavailableError(Cause.LOST_ENGINE, "The engine is not there.")
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await returned(harness, item, 3)
        harness.images.error = None
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert {reason for reason, _ in item.releases} == {"The engine is not there."}
    told = bytes(item.logs["setup"]).decode()
    assert told.count("released to its queue: The engine is not there.") >= 3


async def test_an_item_that_returns_again_and_again_waits_longer_each_time(
    harness: Harness,
) -> None:
    harness.images.error = UnavailableError(Cause.LOST_ENGINE, "The engine does not answer.")
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await returned(harness, item, 9)
    assert [delay for _, delay in item.releases[:9]] == [0, 5, 10, 20, 40, 80, 160, 300, 300]


async def test_a_builder_that_does_not_answer_is_a_condition_of_its_own(harness: Harness) -> None:
    harness.builder.error = harness.builder.unavailable = GONE
    item = harness.plane.submit(CODE_JOB)
    async with harness.running():
        await harness.plane_until(lambda: bool(harness.plane.conditions))
        (condition,) = harness.plane.conditions
        assert condition.kind is ConditionKind.BUILDER_UNREACHABLE
        assert condition.message == GONE.message
        await returned(harness, item)
        asked = len(harness.plane.requests)
        checks = harness.builder.checks
        while harness.builder.checks < checks + 3:
            await asyncio.sleep(0.001)
        assert len(harness.plane.requests) == asked
        harness.builder.error = harness.builder.unavailable = None
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert not harness.plane.conditions


async def test_an_error_of_a_build_under_a_builder_that_is_gone_is_the_builders(
    harness: Harness,
) -> None:
    harness.builder.error = JobError(Cause.BUILD_DOCKERFILE, "process did not complete: 137")
    harness.builder.unavailable = GONE
    item = harness.plane.submit(CODE_JOB)
    async with harness.running():
        await returned(harness, item)
        harness.builder.error = harness.builder.unavailable = None
        await harness.until_over(item)
    assert item.outcome == Succeeded()


@pytest.mark.parametrize(
    "error",
    [
        JobError(Cause.BUILD_DOCKERFILE, "RUN false"),
        JobError(Cause.IMAGE_UNAVAILABLE, "the registry of the job does not answer"),
        JobError(Cause.SOURCE_UNREACHABLE, "the git server does not answer"),
    ],
)
async def test_an_error_under_a_backend_that_answers_is_the_jobs(
    harness: Harness, error: JobError
) -> None:
    harness.builder.error = error
    item = harness.plane.submit(CODE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Errored(error.cause, error.message)
    assert not item.releases


async def test_an_engine_that_answers_and_fails_every_job_is_not_asked_hot(
    harness: Harness,
) -> None:
    """Its health check succeeds, so that only growing pauses keep the agent from spinning."""
    pauses: list[float] = []
    harness.images.error = UnavailableError(Cause.LOST_ENGINE, "The engine does not answer.")
    item = harness.plane.submit(IMAGE_JOB)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(seconds / 1000)

    harness.sleep = sleep
    async with harness.running():
        await returned(harness, item, 8)
    assert max(pauses) >= 30.0


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), JobError(Cause.DISK_FULL, "no space is left")]
)
async def test_a_full_disk_returns_an_item_and_ends_it_at_the_third_time(
    harness: Harness, error: Exception
) -> None:
    harness.code.error = error
    item, other = harness.plane.submit(CODE_JOB), harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.plane_until(lambda: bool(harness.plane.conditions))
        assert harness.plane.conditions[0].kind is ConditionKind.DISK_LOW
        await harness.until_over(item)
        await harness.until_over(other)
    assert len(item.releases) == 2
    assert isinstance(item.outcome, Errored)
    assert item.outcome.cause is Cause.DISK_FULL
    assert other.outcome == Succeeded()


async def test_a_claim_that_is_answered_on_a_full_disk_is_returned_before_any_work(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1 << 32

    async def seen(_: object) -> int:
        return free

    monkeypatch.setattr(conditions.FreeDiskCheck, "free", seen)
    harness.settings = {"min_free_disk": 1 << 31}
    async with harness.running():
        await harness.plane.until_called("claim")
        free = 1 << 30
        item = harness.plane.submit(IMAGE_JOB)
        await returned(harness, item)
        await harness.plane_until(lambda: bool(harness.plane.conditions))
        assert harness.plane.conditions[0].kind is ConditionKind.DISK_LOW
        assert not harness.engine.created
        free = 1 << 32
        await harness.until_over(item)
    assert item.history.count(Phase.LEASED) == 2
    assert item.outcome == Succeeded()


async def test_what_an_interrupted_poll_was_given_is_returned_while_nothing_is_claimed(
    harness: Harness,
) -> None:
    """1. A poll is given a job. 2. The engine fails, and the poll is interrupted."""
    with harness.plane.hold("claim") as gate:
        async with harness.running():
            await gate.reached.wait()
            item = harness.plane.submit(IMAGE_JOB)
            assert harness.plane.grant(harness.plane.requests[-1], harness.identity) == [item]
            harness.engine.go_away()
            await harness.plane_until(lambda: bool(harness.plane.conditions))
            gate.open.set()
            await returned(harness, item)
            assert item.phase is Phase.QUEUED
            harness.engine.come_back()
            await harness.until_over(item)
    assert item.outcome == Succeeded()


@pytest.mark.parametrize(
    "error", [UnreachableError("refused"), ServerError("shutting down"), AuthenticationError("no")]
)
async def test_a_control_plane_that_is_away_while_a_source_is_fetched_ends_no_job(
    harness: Harness, error: Exception
) -> None:
    harness.code.errors = [error] * 5
    item = harness.plane.submit(CODE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert not harness.code.errors
    assert not item.releases


async def test_a_control_plane_that_stays_away_is_waited_for(harness: Harness) -> None:
    harness.code.errors = [UnreachableError("refused")] * 40
    item = harness.plane.submit(CODE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert not item.releases


@pytest.mark.parametrize("error", [ServerError("broken"), PermissionDeniedError("not yours")])
async def test_a_server_that_fails_for_one_job_only_ends_it_in_the_end(
    harness: Harness, error: Exception
) -> None:
    harness.code.error = error
    item, other = harness.plane.submit(CODE_JOB), harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
        await harness.until_over(other)
    assert len(item.releases) == 2
    assert not harness.plane.conditions
    assert item.outcome == Errored(Cause.INTERNAL, f"the control plane failed: {error}")
    assert other.outcome == Succeeded()


async def test_returns_for_the_engine_do_not_count_against_a_job_that_meets_a_full_disk(
    harness: Harness,
) -> None:
    # Taken from the end.
    away = UnavailableError(Cause.LOST_ENGINE, "The engine does not answer.")
    harness.code.errors = [JobError(Cause.DISK_FULL, "no space is left"), *[away] * 4]
    item = harness.plane.submit(CODE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert len(item.releases) == 5
    assert item.outcome == Succeeded()


async def test_a_stop_during_a_return_is_left_to_the_control_plane(harness: Harness) -> None:
    harness.images.error = UnavailableError(Cause.LOST_ENGINE, "The engine does not answer.")
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        with harness.plane.hold("release") as gate:
            await gate.reached.wait()
            harness.plane.request_stop(item)
            await harness.renewals(2)
            gate.open.set()
            await returned(harness, item)
    assert item.outcome is None


async def test_a_return_whose_reply_is_cut_is_repeated(harness: Harness) -> None:
    harness.images.error = UnavailableError(Cause.LOST_ENGINE, "The engine does not answer.")
    harness.plane.cut_next("release", 2)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await returned(harness, item)
        harness.images.error = None
        await harness.until_over(item)
    assert item.outcome == Succeeded()


async def test_a_lease_that_is_lost_during_a_return_touches_nothing(harness: Harness) -> None:
    harness.images.error = UnavailableError(Cause.LOST_ENGINE, "The engine does not answer.")
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        with harness.plane.hold("release") as gate:
            await gate.reached.wait()
            harness.plane.take_over(item)
            await harness.renewals(2)
    assert not item.releases
    assert item.outcome is None


class Suspects:
    """Items of which two leases were lost before their start."""

    def __init__(self, harness: Harness, count: int) -> None:
        harness.images.hold = asyncio.Event()
        self.items = [harness.plane.submit(IMAGE_JOB) for _ in range(count)]
        for item in self.items:
            item.lease_losses = 2


async def test_a_suspect_is_prepared_while_nothing_else_is(harness: Harness) -> None:
    suspects = Suspects(harness, 3)
    other = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.images.reached.wait()
        assert harness.images.hold is not None
        await harness.renewals(5)
        # The other one is being prepared; one suspect waits for it, and the rest is released.
        assert other.phase in {Phase.LEASED, Phase.PREPARING}
        held = [item for item in suspects.items if item.holder is not None]
        assert len(held) == 1
        assert held[0].phase is Phase.LEASED
        seen: list[int] = []
        harness.images.entered = lambda: seen.append(harness.images.inside)
        harness.images.hold.set()
        for item in (*suspects.items, other):
            await harness.until_over(item)
    assert set(seen) == {1}
    assert all(item.outcome == Succeeded() for item in (*suspects.items, other))


async def test_an_agent_that_died_releases_suspects_to_prepare_them_alone(
    harness: Harness,
) -> None:
    """The death of the agent while it prepares one counts for that one only."""
    suspects = Suspects(harness, 3)
    for item in suspects.items:
        item.lease_losses = 1
        item.move(Phase.LEASED)
        item.epoch, item.holder = 1, harness.identity
    async with harness.running():
        await harness.images.reached.wait()
        await harness.renewals(3)
        assert [item.holder is not None for item in suspects.items] == [True, False, False]
        assert all(item.releases for item in suspects.items)
        assert harness.images.hold is not None
        harness.images.hold.set()
        for item in suspects.items:
            await harness.until_over(item)
    assert [item.lease_losses for item in suspects.items] == [0, 0, 0]
