"""Fenced at every step, lost answers, an unreachable control plane."""

import asyncio
from dataclasses import replace

import pytest

from agent.model.capacity import Capacity
from agent.model.errors import ConflictError, FencedError, ServerError, UnreachableError
from agent.model.phase import Phase, Succeeded
from agent.testing.runner_suite import Scenario
from tests.unit.daemon.harness import CODE_JOB, IMAGE_JOB, Harness, eventually


@pytest.mark.parametrize("step", ["create", "start", "destroy"])
async def test_fenced_during_a_call_of_the_engine_touches_nothing_after_it(
    harness: Harness, step: str
) -> None:
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        with harness.engine.hold(step) as gate:
            await gate.reached.wait()
            harness.plane.take_over(item)
            await harness.renewals(3)
            gate.open.set()
            await harness.renewals(3)
    starts = harness.engine.starts(harness.name(item))
    assert starts == (0 if step == "create" else 1)
    assert (item.outcome is None) == (step != "destroy")
    if step != "destroy":
        assert harness.name(item) in harness.engine.workloads


@pytest.mark.parametrize("call", ["permit", "finish"])
async def test_fenced_by_the_answer_of_a_call(harness: Harness, call: str) -> None:
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        with harness.plane.hold(call) as gate:
            await gate.reached.wait()
            harness.plane.take_over(item)
        await harness.renewals(3)
    assert harness.engine.starts(harness.name(item)) == (0 if call == "permit" else 1)
    assert item.outcome is None
    assert harness.name(item) in harness.engine.workloads


async def test_fenced_while_it_builds_ends_the_build(harness: Harness) -> None:
    harness.builder.hold = asyncio.Event()
    item = harness.plane.submit(CODE_JOB)
    async with harness.running():
        await harness.builder.reached.wait()
        harness.plane.take_over(item)
        await eventually(lambda: harness.builder.cancelled == 1)
    assert not harness.engine.workloads


async def test_fenced_while_it_runs_leaves_it_running(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.plane.take_over(item)
        await harness.renewals(3)
    assert harness.engine.workloads[harness.name(item)].ending is None
    assert ("stop", harness.name(item)) not in harness.engine.calls


async def test_fenced_by_the_log_leaves_it_running(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    harness.plane.heartbeat_seconds = 3600.0
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.plane.take_over(item)
        harness.engine.write(harness.name(item), b"to nobody\n")
        await harness.plane.until_called("append_log")
        await harness.plane.until_called("claim", 2)
    assert ("stop", harness.name(item)) not in harness.engine.calls
    assert item.outcome is None


async def test_an_item_claimed_again_after_a_sleep_is_started_once(harness: Harness) -> None:
    """1. The process sleeps past its lease. 2. The item is queued again. 3. We claim it."""
    harness.plane.heartbeat_seconds = 3600.0
    harness.images.hold = asyncio.Event()
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.images.reached.wait()
        harness.plane.lapse(item)
        await harness.plane.until_phase(item, Phase.QUEUED)
        while item.epoch < 2:
            await harness.plane.changed()
        harness.images.hold.set()
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1


@pytest.mark.parametrize("call", ["claim", "permit", "finish", "append_log", "advance", "renew"])
async def test_a_cut_answer_costs_nothing(harness: Harness, call: str) -> None:
    harness.engine.default = Scenario(output=b"line\n" * 1000)
    harness.plane.cut_next(call, 2)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert item.epoch == 1
    assert bytes(item.logs["job"]) == b"line\n" * 1000
    assert harness.engine.starts(harness.name(item)) == 1


async def test_a_cut_claim_is_repeated_with_the_same_request_id(harness: Harness) -> None:
    harness.plane.cut_next("claim")
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
        await harness.plane.until_called("claim", 3)
    ids = [request.request_id for request in harness.plane.requests]
    assert ids[0] == ids[1]
    assert ids[2] != ids[1]


async def test_an_unreachable_control_plane_delays_and_loses_nothing(harness: Harness) -> None:
    harness.engine.default = Scenario(output=b"first\n", waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.plane.go_away()
        harness.engine.write(harness.name(item), b"while away\n" * 200_000)
        harness.engine.release(harness.name(item))
        await harness.until_call_returned("watch")
        assert item.outcome is None
        harness.plane.come_back()
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert bytes(item.logs["job"]) == b"first\n" + b"while away\n" * 200_000


async def test_the_outcome_is_reported_to_a_server_without_space_for_logs(harness: Harness) -> None:
    """The disk of its logs is full; its database still takes what matters most."""
    harness.limits = replace(harness.limits, log_stall=0.2)
    harness.engine.default = Scenario(output=b"some\n")
    for _ in range(10_000):
        harness.plane.fail_next("append_log", ServerError("No space is left on its disk."))
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert any(text.endswith("No space is left on its disk.") for text in item.warnings)


async def test_an_outcome_that_could_not_be_reported_is_left_to_the_next_process(
    harness: Harness,
) -> None:
    harness.engine.default = Scenario(exit_code=7, waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.until_running(item)
        harness.plane.go_away()
        harness.engine.release(harness.name(item))
        await harness.until_call_returned("watch")
        harness.last.stop()
        assert await process == 0
    assert item.outcome is None
    harness.plane.come_back()
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome is not None
    assert item.outcome.message == "exit code 7"


async def test_a_refused_outcome_leaves_the_workload(harness: Harness) -> None:
    item = harness.plane.submit(IMAGE_JOB)
    harness.plane.fail_next("finish", ConflictError("not like this"))
    async with harness.running():
        await harness.plane.until_called("finish")
        await harness.renewals(3)
    assert harness.name(item) in harness.engine.workloads


@pytest.mark.parametrize("call", ["advance", "permit", "finish"])
async def test_fenced_by_an_error_is_fenced(harness: Harness, call: str) -> None:
    harness.engine.default = Scenario(waits=call == "advance")
    item = harness.plane.submit(IMAGE_JOB)
    harness.plane.fail_next(call, FencedError("not yours"))
    async with harness.running():
        await harness.plane.until_called(call)
        await harness.renewals(3)
    assert item.outcome is None


async def test_refused_progress_does_not_harm_the_job(harness: Harness) -> None:
    item = harness.plane.submit(IMAGE_JOB)
    harness.plane.fail_next("advance", ConflictError("too late"))
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()


async def test_nothing_is_claimed_below_the_free_disk_floor(harness: Harness) -> None:
    harness.settings = {"min_free_disk": 1 << 62}
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.renewals(3)
    assert item.phase is Phase.QUEUED
    assert not harness.plane.requests


async def test_nothing_is_claimed_while_an_engine_is_away(harness: Harness) -> None:
    async with harness.running():
        await harness.plane.until_called("claim")
        harness.engine.go_away()
        await harness.plane_until(lambda: bool(harness.plane.conditions))
        item = harness.plane.submit(IMAGE_JOB)
        await harness.renewals(3)
        assert item.phase is Phase.QUEUED
        harness.engine.come_back()
        await harness.until_over(item)
    assert item.outcome == Succeeded()


async def test_a_failed_renewal_is_retried(harness: Harness) -> None:
    for _ in range(3):
        harness.plane.fail_next("renew", UnreachableError("away"))
    async with harness.running():
        await harness.renewals(3)
    assert harness.plane.statuses[-1] == "KILLED"


async def test_a_job_that_another_agent_of_the_backend_left_is_adopted_while_this_one_runs(
    harness: Harness,
) -> None:
    harness.engine.default = Scenario(b"whole\n", waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
    harness.identity = "another installation"
    async with harness.running(state=harness.root / "another"):
        await harness.renewals(2)
        harness.plane.cut_next("adopt")
        harness.plane.abandon(item)
        await harness.until_call_failed("adopt")
        # The server finds out that the agent did not learn of it.
        harness.plane.abandon(item)
        await eventually(lambda: item.holder == "another installation" and item.epoch == 3)
        harness.engine.release(harness.name(item))
        await harness.until_over(item)
    assert isinstance(item.outcome, Succeeded)
    assert harness.engine.starts(harness.name(item)) == 1
    assert bytes(item.logs["job"]) == b"whole\n"


async def test_more_free_slots_than_a_claim_may_ask_for(harness: Harness) -> None:
    """The server refuses such a claim; the next one asks for the rest."""
    harness.capacity = Capacity(slots=1000)
    items = [harness.plane.submit(IMAGE_JOB) for _ in range(3)]
    async with harness.running():
        for item in items:
            await harness.until_over(item)
    assert [item.outcome for item in items] == [Succeeded()] * 3
