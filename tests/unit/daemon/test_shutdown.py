"""Shutdown: graceful and forced, by signals, commands of operators, failures."""

import asyncio
import os
import signal

import pytest

from agent.daemon.claim import ClaimLoop
from agent.model.capacity import Allocation
from agent.model.cause import Cause
from agent.model.errors import NotFoundError
from agent.model.phase import Phase, Stopped, Succeeded
from agent.testing.runner_suite import Scenario
from tests.unit.daemon.harness import CODE_JOB, IMAGE_JOB, Harness


async def test_the_first_signal_detaches_and_the_next_process_adopts(harness: Harness) -> None:
    harness.engine.default = Scenario(output=b"one\n", waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.until_running(item)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await process == 0
    assert item.phase is Phase.STARTED
    assert harness.plane.statuses[-1] == "KILLED"
    async with harness.running():
        harness.engine.write(harness.name(item), b"two\n")
        harness.engine.release(harness.name(item))
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert bytes(item.logs["job"]) == b"one\ntwo\n"
    assert harness.engine.starts(harness.name(item)) == 1


async def test_no_heartbeat_is_under_way_beside_the_last_one(harness: Harness) -> None:
    """It could arrive after the last one, and the agent would seem to live."""
    item = harness.plane.submit(IMAGE_JOB)
    harness.engine.default = Scenario(waits=True)
    async with harness.running() as process:
        await harness.until_running(item)
        with harness.plane.hold("renew") as gate:
            await gate.reached.wait()
            before = len(harness.plane.statuses)
            renewals = harness.plane.calls.count(("renew", ""))
            os.kill(os.getpid(), signal.SIGTERM)
            await harness.plane_until(lambda: harness.plane.calls.count(("renew", "")) > renewals)
        assert await process == 0
    assert harness.plane.statuses[before:] == ["KILLED"]


async def test_the_first_signal_returns_what_is_not_started(harness: Harness) -> None:
    harness.images.hold = asyncio.Event()
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.images.reached.wait()
        os.kill(os.getpid(), signal.SIGINT)
        assert await process == 0
    assert item.phase is Phase.QUEUED
    assert not harness.engine.workloads


async def test_waiting_lets_running_jobs_end(harness: Harness) -> None:
    harness.on_stop = "wait"
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.until_running(item)
        harness.last.stop()
        while "DRAINING" not in harness.plane.statuses:
            await harness.plane.changed()
        late = harness.plane.submit(IMAGE_JOB)
        harness.engine.release(harness.name(item))
        assert await process == 0
    assert item.outcome == Succeeded()
    assert late.phase is Phase.QUEUED


async def test_the_second_signal_stops_the_jobs_with_its_own_cause(harness: Harness) -> None:
    harness.on_stop = "wait"
    harness.engine.default = Scenario(waits=True, ignores_term=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.until_running(item)
        harness.last.stop()
        harness.last.stop()
        assert await process == 0
    assert isinstance(item.outcome, Stopped)
    assert item.outcome.cause is Cause.STOPPED_BY_AGENT
    assert item.outcome.exit_code == 137


async def test_an_operator_drains_an_agent(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.until_running(item)
        harness.plane.agent_stop = "DRAIN"
        while "DRAINING" not in harness.plane.statuses:
            await harness.plane.changed()
        harness.engine.release(harness.name(item))
        assert await process == 0
    assert item.outcome == Succeeded()


async def test_an_operator_stops_an_agent_and_its_jobs(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.until_running(item)
        harness.plane.agent_stop = "STOP"
        assert await process == 0
    assert isinstance(item.outcome, Stopped)
    assert item.outcome.cause is Cause.STOPPED_BY_AGENT


async def test_a_superseded_process_exits_and_touches_nothing(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.until_running(item)
        harness.plane.sessions[harness.identity] = "a newer one"
        assert await process == 1
    assert harness.engine.workloads[harness.name(item)].ending is None
    assert item.phase is Phase.STARTED


async def test_being_superseded_while_waiting_for_jobs_leaves_them(harness: Harness) -> None:
    harness.on_stop = "wait"
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.until_running(item)
        harness.last.stop()
        harness.plane.sessions[harness.identity] = "a newer one"
        assert await process == 1
    assert harness.engine.workloads[harness.name(item)].ending is None


async def test_a_loop_that_fails_stops_the_daemon_and_leaves_jobs_running(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    polls = 0
    whole = ClaimLoop._poll

    async def second_fails(self: ClaimLoop) -> object:
        nonlocal polls
        polls += 1
        if polls > 1:
            await harness.until_running(item)
            raise ZeroDivisionError
        return await whole(self)

    monkeypatch.setattr(ClaimLoop, "_poll", second_fails)
    async with harness.running() as process:
        assert await process == 1
    assert harness.engine.workloads[harness.name(item)].ending is None


async def test_it_does_not_start_where_registration_is_refused(harness: Harness) -> None:
    harness.plane.fail_next("register", NotFoundError("No queue 'default'."))
    with pytest.raises(NotFoundError, match="No queue"):
        await harness.daemon().run()


async def test_a_signal_during_registration_ends_the_process_at_once(harness: Harness) -> None:
    daemon = harness.daemon()
    with harness.plane.hold("register") as gate:
        process = asyncio.create_task(daemon.run())
        await gate.reached.wait()
        daemon.stop()
        assert await process == 0


async def test_an_item_of_an_interrupted_poll_is_returned_at_shutdown(
    harness: Harness,
) -> None:
    async with harness.running() as process:
        await harness.plane.until_called("claim")
        with harness.plane.hold("claim") as gate:
            first = harness.plane.requests[-1]
            item = harness.plane.submit(IMAGE_JOB)
            # The server gives it to the open poll, and the reply never arrives.
            item.move(Phase.LEASED)
            item.epoch, item.holder, item.request_id = 1, harness.identity, first.request_id
            item.allocation = Allocation()
            harness.last.stop()
            await gate.reached.wait()
            assert harness.plane.requests[-1].request_id == first.request_id
            assert harness.plane.requests[-1].free.slots == 0
            gate.open.set()
            assert await process == 0
    assert item.phase is Phase.QUEUED


async def test_a_build_that_nobody_waits_for_any_more_ends(harness: Harness) -> None:
    harness.builder.hold = asyncio.Event()
    harness.plane.submit(CODE_JOB)
    async with harness.running() as process:
        await harness.builder.reached.wait()
        harness.last.stop()
        assert await process == 0
    assert harness.builder.cancelled == 1


async def test_a_process_that_follows_an_ordered_shutdown_says_so(harness: Harness) -> None:
    async with harness.running() as process:
        harness.last.stop()
        assert await process == 0
    async with harness.running():
        # Should it die now, its successor must not say so.
        assert not (harness.root / "state" / "shut-down").exists()
    assert [one.after_shutdown for one in harness.plane.registrations] == [False, True]
