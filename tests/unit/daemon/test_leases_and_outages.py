"""Fenced at every step, cut answers, a far end that is away."""

import asyncio

import pytest

from agent.model.errors import ConflictError, FencedError, ServerError, UnreachableError
from agent.model.outcome import Succeeded
from agent.model.phase import Phase
from agent.testing.scripted_runner import Play
from tests.unit.daemon.bench import CODE_JOB, IMAGE_JOB, Bench


async def _gone(bench: Bench, calls: int = 3) -> None:
    """Some renewals later."""
    seen = len(bench.plane.statuses)
    while len(bench.plane.statuses) < seen + calls:
        await bench.plane.changed()


@pytest.mark.parametrize("step", ["create", "start", "destroy"])
async def test_fenced_during_a_call_of_the_engine_touches_nothing_after_it(
    bench: Bench, step: str
) -> None:
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        with bench.engine.hold(step) as gate:
            await gate.reached.wait()
            bench.plane.take_over(item)
            await _gone(bench)
            gate.open.set()
            await _gone(bench)
    starts = bench.engine.starts(bench.name(item))
    assert starts == (0 if step == "create" else 1)
    assert (item.outcome is None) == (step != "destroy")
    if step != "destroy":
        assert bench.name(item) in bench.engine.workloads


@pytest.mark.parametrize("call", ["permit", "finish"])
async def test_fenced_by_the_answer_of_a_call(bench: Bench, call: str) -> None:
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        with bench.plane.hold(call) as gate:
            await gate.reached.wait()
            bench.plane.take_over(item)
        await _gone(bench)
    assert bench.engine.starts(bench.name(item)) == (0 if call == "permit" else 1)
    assert item.outcome is None
    assert bench.name(item) in bench.engine.workloads


async def test_fenced_while_it_builds_ends_the_build(bench: Bench) -> None:
    bench.builder.hold = asyncio.Event()
    item = bench.plane.submit(CODE_JOB)
    async with bench.running():
        await bench.builder.reached.wait()
        bench.plane.take_over(item)
        await _gone(bench)
        assert bench.builder.cancelled == 1
    assert not bench.engine.workloads


async def test_fenced_while_it_runs_leaves_it_running(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.plane.take_over(item)
        await _gone(bench)
    assert bench.engine.workloads[bench.name(item)].ending is None
    assert ("stop", bench.name(item)) not in bench.engine.calls


async def test_fenced_by_the_log_leaves_it_running(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    bench.plane.heartbeat_seconds = 3600.0
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.plane.take_over(item)
        bench.engine.write(bench.name(item), b"to nobody\n")
        await bench.plane.until_called("append_log")
        await bench.plane.until_called("claim", 2)
    assert ("stop", bench.name(item)) not in bench.engine.calls
    assert item.outcome is None


async def test_an_item_claimed_again_after_a_sleep_is_started_once(bench: Bench) -> None:
    """1. The process sleeps past its lease. 2. The item is queued again. 3. We claim it."""
    bench.plane.heartbeat_seconds = 3600.0
    bench.images.hold = asyncio.Event()
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.images.reached.wait()
        bench.plane.lapse(item)
        await bench.plane.until_phase(item, Phase.QUEUED)
        while item.epoch < 2:
            await bench.plane.changed()
        bench.images.hold.set()
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bench.engine.starts(bench.name(item)) == 1


@pytest.mark.parametrize("call", ["claim", "permit", "finish", "append_log", "advance", "renew"])
async def test_a_cut_answer_costs_nothing(bench: Bench, call: str) -> None:
    bench.engine.default = Play(output=b"line\n" * 1000)
    bench.plane.cut_next(call, 2)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert item.epoch == 1
    assert bytes(item.logs["job"]) == b"line\n" * 1000
    assert bench.engine.starts(bench.name(item)) == 1


async def test_a_cut_claim_is_repeated_with_the_same_request_id(bench: Bench) -> None:
    bench.plane.cut_next("claim")
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
        await bench.plane.until_called("claim", 3)
    ids = [request.request_id for request in bench.plane.requests]
    assert ids[0] == ids[1]
    assert ids[2] != ids[1]


async def test_a_far_end_that_is_away_delays_and_loses_nothing(bench: Bench) -> None:
    bench.engine.default = Play(output=b"first\n", waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.plane.go_away()
        bench.engine.write(bench.name(item), b"while away\n" * 200_000)
        bench.engine.release(bench.name(item))
        for _ in range(100):
            await asyncio.sleep(0)
        assert item.outcome is None
        bench.plane.come_back()
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bytes(item.logs["job"]) == b"first\n" + b"while away\n" * 200_000


async def test_a_control_plane_without_room_for_logs_hears_the_outcome(bench: Bench) -> None:
    """The disk of its logs is full; its database still takes what matters most."""
    bench.engine.default = Play(output=b"some\n")
    for _ in range(10_000):
        bench.plane.fail_next("append_log", ServerError("No space is left on its disk."))
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert any(text.endswith("No space is left on its disk.") for text in item.warnings)


async def test_leaving_while_the_far_end_is_away_keeps_the_outcome_for_the_next_process(
    bench: Bench,
) -> None:
    bench.engine.default = Play(exit_code=7, waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.until_running(item)
        bench.plane.go_away()
        bench.engine.release(bench.name(item))
        for _ in range(100):
            await asyncio.sleep(0)
        bench.last.stop()
        assert await process == 0
    assert item.outcome is None
    bench.plane.come_back()
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome is not None
    assert item.outcome.message == "exit code 7"


async def test_an_outcome_that_is_refused_leaves_its_evidence(bench: Bench) -> None:
    item = bench.plane.submit(IMAGE_JOB)
    bench.plane.fail_next("finish", ConflictError("not like this"))
    async with bench.running():
        await bench.plane.until_called("finish")
        await _gone(bench)
    assert bench.name(item) in bench.engine.workloads


@pytest.mark.parametrize("call", ["advance", "permit", "finish"])
async def test_fenced_by_an_error_is_fenced(bench: Bench, call: str) -> None:
    bench.engine.default = Play(waits=call == "advance")
    item = bench.plane.submit(IMAGE_JOB)
    bench.plane.fail_next(call, FencedError("not yours"))
    async with bench.running():
        await bench.plane.until_called(call)
        await _gone(bench)
    assert item.outcome is None


async def test_refused_progress_does_not_harm_the_job(bench: Bench) -> None:
    item = bench.plane.submit(IMAGE_JOB)
    bench.plane.fail_next("advance", ConflictError("too late"))
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome == Succeeded()


async def test_nothing_is_claimed_below_the_free_disk_floor(bench: Bench) -> None:
    bench.settings = {"min_free_disk": 1 << 62}
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await _gone(bench)
    assert item.phase is Phase.QUEUED
    assert not bench.plane.requests


async def test_nothing_is_claimed_while_an_engine_is_away(bench: Bench) -> None:
    async with bench.running():
        await bench.plane.until_called("claim")
        bench.engine.go_away()
        while not (bench.plane.requests and await _down(bench)):
            await asyncio.sleep(0.001)
        item = bench.plane.submit(IMAGE_JOB)
        await _gone(bench)
        assert item.phase is Phase.QUEUED
        bench.engine.come_back()
        await bench.until_over(item)
    assert item.outcome == Succeeded()


async def _down(bench: Bench) -> bool:
    tasks = {task.get_name() for task in asyncio.all_tasks()}
    before = len(bench.plane.requests)
    await asyncio.sleep(0.03)
    return "engines" in tasks and len(bench.plane.requests) == before


async def test_an_unreachable_renewal_is_tried_again(bench: Bench) -> None:
    for _ in range(3):
        bench.plane.fail_next("renew", UnreachableError("away"))
    async with bench.running():
        await _gone(bench)
    assert bench.plane.statuses[-1] == "KILLED"
