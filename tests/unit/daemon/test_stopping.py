"""Two levels of stop, commands of operators, and other reasons to leave."""

import asyncio
import os
import signal

import pytest

from agent.daemon.claim import ClaimLoop
from agent.model.capacity import Allocation
from agent.model.cause import Cause
from agent.model.errors import NotFoundError
from agent.model.outcome import Stopped, Succeeded
from agent.model.phase import Phase
from agent.testing.scripted_runner import Play
from tests.unit.daemon.bench import CODE_JOB, IMAGE_JOB, Bench


async def test_the_first_signal_detaches_and_the_next_process_adopts(bench: Bench) -> None:
    bench.engine.default = Play(output=b"one\n", waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.until_running(item)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await process == 0
    assert item.phase is Phase.STARTED
    assert bench.plane.statuses[-1] == "KILLED"
    async with bench.running():
        bench.engine.write(bench.name(item), b"two\n")
        bench.engine.release(bench.name(item))
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bytes(item.logs["job"]) == b"one\ntwo\n"
    assert bench.engine.starts(bench.name(item)) == 1


async def test_the_first_signal_hands_back_what_is_not_started(bench: Bench) -> None:
    bench.images.hold = asyncio.Event()
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.images.reached.wait()
        os.kill(os.getpid(), signal.SIGINT)
        assert await process == 0
    assert item.phase is Phase.QUEUED
    assert not bench.engine.workloads


async def test_waiting_lets_running_jobs_end(bench: Bench) -> None:
    bench.on_stop = "wait"
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.until_running(item)
        bench.last.stop()
        while "DRAINING" not in bench.plane.statuses:
            await bench.plane.changed()
        late = bench.plane.submit(IMAGE_JOB)
        bench.engine.release(bench.name(item))
        assert await process == 0
    assert item.outcome == Succeeded()
    assert late.phase is Phase.QUEUED


async def test_the_second_signal_stops_the_jobs_and_says_who_did(bench: Bench) -> None:
    bench.on_stop = "wait"
    bench.engine.default = Play(waits=True, ignores_term=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.until_running(item)
        bench.last.stop()
        bench.last.stop()
        assert await process == 0
    assert isinstance(item.outcome, Stopped)
    assert item.outcome.cause is Cause.STOPPED_BY_AGENT
    assert item.outcome.exit_code == 137


async def test_an_operator_drains_an_agent(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.until_running(item)
        bench.plane.agent_stop = "DRAIN"
        while "DRAINING" not in bench.plane.statuses:
            await bench.plane.changed()
        bench.engine.release(bench.name(item))
        assert await process == 0
    assert item.outcome == Succeeded()


async def test_an_operator_stops_an_agent_and_its_jobs(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.until_running(item)
        bench.plane.agent_stop = "STOP"
        assert await process == 0
    assert isinstance(item.outcome, Stopped)
    assert item.outcome.cause is Cause.STOPPED_BY_AGENT


async def test_a_superseded_session_leaves_and_touches_nothing(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.until_running(item)
        bench.plane.sessions[bench.identity] = "a newer one"
        assert await process == 1
    assert bench.engine.workloads[bench.name(item)].ending is None
    assert item.phase is Phase.STARTED


async def test_being_superseded_while_waiting_for_jobs_leaves_them(bench: Bench) -> None:
    bench.on_stop = "wait"
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.until_running(item)
        bench.last.stop()
        bench.plane.sessions[bench.identity] = "a newer one"
        assert await process == 1
    assert bench.engine.workloads[bench.name(item)].ending is None


async def test_a_loop_that_fails_stops_the_daemon_and_leaves_jobs_running(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    polls = 0
    whole = ClaimLoop._poll

    async def second_fails(self: ClaimLoop) -> object:
        nonlocal polls
        polls += 1
        if polls > 1:
            await bench.until_running(item)
            raise ZeroDivisionError
        return await whole(self)

    monkeypatch.setattr(ClaimLoop, "_poll", second_fails)
    async with bench.running() as process:
        assert await process == 1
    assert bench.engine.workloads[bench.name(item)].ending is None


async def test_it_cannot_begin_where_registration_is_refused(bench: Bench) -> None:
    bench.plane.fail_next("register", NotFoundError("No queue 'default'."))
    with pytest.raises(NotFoundError, match="No queue"):
        await bench.daemon().run()


async def test_a_signal_during_registration_leaves_at_once(bench: Bench) -> None:
    daemon = bench.daemon()
    with bench.plane.hold("register") as gate:
        process = asyncio.create_task(daemon.run())
        await gate.reached.wait()
        daemon.stop()
        assert await process == 0


async def test_what_a_cut_poll_was_given_is_handed_back_on_leaving(bench: Bench) -> None:
    async with bench.running() as process:
        await bench.plane.until_called("claim")
        with bench.plane.hold("claim") as gate:
            first = bench.plane.requests[-1]
            item = bench.plane.submit(IMAGE_JOB)
            # The far end gives it to the open poll, and the answer never comes.
            item.move(Phase.LEASED)
            item.epoch, item.holder, item.request_id = 1, bench.identity, first.request_id
            item.allocation = Allocation()
            bench.last.stop()
            await gate.reached.wait()
            assert bench.plane.requests[-1].request_id == first.request_id
            assert bench.plane.requests[-1].free.slots == 0
            gate.open.set()
            assert await process == 0
    assert item.phase is Phase.QUEUED


async def test_a_build_that_nobody_waits_for_any_more_ends(bench: Bench) -> None:
    bench.builder.hold = asyncio.Event()
    bench.plane.submit(CODE_JOB)
    async with bench.running() as process:
        await bench.builder.reached.wait()
        bench.last.stop()
        assert await process == 0
    assert bench.builder.cancelled == 1
