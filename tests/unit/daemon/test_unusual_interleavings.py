"""Interleavings that occur seldom: lost answers of the engine, late effects, full disks."""

import asyncio
import sqlite3
from dataclasses import replace
from typing import Any

import pytest

from agent.config.execution import PendingTimeouts
from agent.daemon import service
from agent.daemon.journal import Journal
from agent.model.capacity import Allocation, Capacity
from agent.model.cause import Cause
from agent.model.errors import ConflictError, JobError, UnreachableError
from agent.model.phase import Errored, Lost, Phase, Preempted, Refused, Stopped, Succeeded
from agent.pipeline.dependencies import AttemptTimeouts, Backend
from agent.ports.runner import NeverStarted, Pending, Pod, StartResult, StartUnknown, Workload
from agent.testing.runner_suite import Scenario
from tests.infrastructure.scripted_runner import ScriptedRunner
from tests.unit.daemon.harness import CODE_JOB, IMAGE_JOB, Crash, Harness, eventually


class OverriddenRunner:
    """A runner with some calls replaced."""

    def __init__(self, inner: Any, **calls: Any) -> None:
        self._inner = inner
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._inner, name)


def override(harness: Harness, **calls: Any) -> None:
    def backends(made: dict[str, Backend]) -> dict[str, Backend]:
        return {
            name: replace(backend, runner=OverriddenRunner(backend.runner, **calls))
            for name, backend in made.items()
        }

    harness.backends = backends


@pytest.mark.parametrize("scenario", [Scenario(starts_lost=1), Scenario(start_answer_lost=True)])
async def test_a_runner_finds_out_what_became_of_a_lost_start(
    harness: Harness, scenario: Scenario
) -> None:
    harness.engine.default = scenario
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1


async def test_a_start_that_nobody_can_settle_leaves_the_job_lost(harness: Harness) -> None:
    async def start(workload: Workload) -> StartResult:
        harness.engine.go_away()
        return StartUnknown(Cause.LOST_ENGINE, "gone; the job may have been started")

    override(harness, start=start)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.plane.until_phase(item)
        harness.engine.come_back()
    assert item.outcome == Lost(Cause.LOST_ENGINE, "gone; the job may have been started")


async def test_a_start_that_certainly_failed_is_an_error_and_not_a_loss(harness: Harness) -> None:
    async def start(workload: Workload) -> StartResult:
        return NeverStarted(JobError(Cause.START_FAILED, "no connection was made."))

    override(harness, start=start)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Errored(Cause.START_FAILED, "no connection was made.")
    assert harness.engine.starts(harness.name(item)) == 0


WAITING = (
    Pending(Cause.SCHEDULE_QUOTA, "quota 'gpus' is used up"),
    Pending(Cause.SCHEDULE_NO_NODE, "0 of 3 nodes have room"),
)


async def test_a_pending_job_is_reported_and_started_when_it_runs(harness: Harness) -> None:
    harness.engine.default = Scenario(output=b"ran\n", pending=WAITING)
    item = harness.plane.submit({**IMAGE_JOB, "timeout": 60.0})
    async with harness.running():
        for reason in WAITING:
            activity = f"pending: {reason.message}"
            await harness.plane_until(lambda text=activity: item.activity == text)
            assert item.phase is Phase.PERMITTED
            assert item.facts["pending_cause"] == reason.cause
            harness.engine.place(harness.name(item))
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert item.history.count(Phase.STARTED) == 1
    assert bytes(item.logs["job"]) == b"ran\n"


async def test_pods_are_reported_with_what_a_job_waits_for_and_without_secrets(
    harness: Harness,
) -> None:
    pod = Pod("job-1", "", "pending", ("token-of-the-job cannot be mounted",))
    pending = replace(WAITING[1], pods=(pod,))
    harness.engine.default = Scenario(output=b"ran\n", pending=(pending,))
    item = harness.plane.submit({**IMAGE_JOB, "_wandb_api_key": "token-of-the-job"})
    async with harness.running():
        await harness.plane_until(lambda: "pods" in item.facts)
        assert item.facts["pods"] == [
            {"name": "job-1", "node": "", "state": "pending", "details": ["*** cannot be mounted"]}
        ]
        harness.engine.place(harness.name(item))
        await harness.until_over(item)


async def test_a_job_that_is_pending_for_too_long_never_runs(harness: Harness) -> None:
    harness.limits = replace(harness.limits, pending=PendingTimeouts(quota=5.0))
    harness.engine.default = Scenario(output=b"ran\n", pending=WAITING)
    item = harness.plane.submit({**IMAGE_JOB, "timeout": 1.0})
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Errored(
        Cause.SCHEDULE_TIMEOUT,
        "it did not run within 5.0 s (`pending_timeout.quota` of the agent): quota 'gpus' is "
        "used up",
    )
    assert Phase.STARTED not in item.history


async def test_each_reason_to_wait_has_its_own_limit(harness: Harness) -> None:
    """The second one begins when the first one has ended."""
    harness.limits = replace(harness.limits, pending=PendingTimeouts(quota=None, no_node=5.0))
    harness.engine.default = Scenario(output=b"ran\n", pending=WAITING)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.plane_until(lambda: bool(item.activity) and "quota" in item.activity)
        harness.engine.place(harness.name(item))
        await harness.until_over(item)
    assert isinstance(item.outcome, Errored)
    assert "pending_timeout.no_node" in item.outcome.message


@pytest.mark.parametrize("permanent", [True, False])
async def test_an_error_that_lasts_ends_the_job_with_its_own_cause(
    harness: Harness, permanent: bool
) -> None:
    cause = Cause.IMAGE_AUTH if permanent else Cause.IMAGE_UNAVAILABLE
    error = Pending(cause, "the registry says no", permanent=permanent)
    limit = None if permanent else 5.0
    harness.limits = replace(harness.limits, pending=PendingTimeouts(image_error=limit))
    harness.engine.default = Scenario(output=b"ran\n", pending=(error,))
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, Errored)
    assert item.outcome.cause is cause
    assert item.outcome.message.endswith("the registry says no")
    assert Phase.STARTED not in item.history


async def test_a_pending_job_is_adopted_and_not_started_again(harness: Harness) -> None:
    harness.engine.default = Scenario(output=b"ran\n", pending=WAITING[:1])
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("start", "after"))
    async with harness.running(state=left):
        await harness.plane_until(lambda: bool(item.activity) and "quota" in item.activity)
        harness.engine.place(harness.name(item))
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1


async def test_a_preempted_job_and_one_whose_node_is_lost(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    first, second = (harness.plane.submit(IMAGE_JOB) for _ in range(2))
    async with harness.running():
        for item in (first, second):
            await harness.until_running(item)
        harness.engine.preempt(harness.name(first))
        harness.engine.lose_node(harness.name(second))
        for item in (first, second):
            await harness.until_over(item)
    assert isinstance(first.outcome, Preempted)
    assert isinstance(second.outcome, Lost)
    assert second.outcome.cause is Cause.LOST_NODE


async def test_what_was_started_already_is_followed_and_not_started(harness: Harness) -> None:
    """The server was restored from a backup, without the permit of a running job."""
    harness.engine.default = Scenario(output=b"out\n", waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    left = await harness.die(Crash("start", "after"))
    item.phase = Phase.PREPARING
    async with harness.running(state=left):
        await harness.plane.until_called("permit", 2)
        harness.engine.release(harness.name(item))
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1


async def test_a_created_workload_that_runs_after_all_is_followed(harness: Harness) -> None:
    runner = ScriptedRunner(harness.engine, "fake0plane")

    async def create(request: Any) -> Workload:
        made = await runner.create(request)
        await runner.start(made)
        return made

    override(harness, create=create)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1


async def test_stopping_is_retried_until_it_succeeds(harness: Harness) -> None:
    runner = ScriptedRunner(harness.engine, "fake0plane")
    tries = 0

    async def stop(workload: Workload, grace: float) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise JobError(Cause.LOST_ENGINE, "busy")
        await runner.stop(workload, grace)

    override(harness, stop=stop)
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit({**IMAGE_JOB, "timeout": 5.0})
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome is not None
    assert item.outcome.cause is Cause.RUN_DEADLINE
    assert tries == 3


async def test_a_workload_that_vanishes_while_being_stopped_was_stopped(harness: Harness) -> None:
    async def stop(workload: Workload, grace: float) -> None:
        harness.engine.vanish(workload.name)

    override(harness, stop=stop)
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.plane.request_stop(item)
        await harness.until_over(item)
    assert isinstance(item.outcome, Stopped)


async def test_a_job_that_went_with_its_engine_is_lost_whatever_its_exit_code(
    harness: Harness,
) -> None:
    harness.limits = AttemptTimeouts(grace=5.0, engine=600.0)
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.engine.go_away()
        await harness.until_call_failed("watch")
        harness.engine.release(harness.name(item))
        harness.engine.come_back()
        await harness.until_over(item)
    assert isinstance(item.outcome, Lost)
    assert item.outcome.cause is Cause.LOST_ENGINE


async def test_a_job_that_is_gone_with_its_engine_is_lost(harness: Harness) -> None:
    harness.limits = AttemptTimeouts(grace=5.0, engine=600.0)
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.engine.go_away()
        await harness.until_call_failed("watch")
        harness.engine.vanish(harness.name(item))
        harness.engine.come_back()
        await harness.plane.until_phase(item)
    assert isinstance(item.outcome, Lost)


async def test_what_cannot_be_removed_is_left_to_the_pruner(harness: Harness) -> None:
    async def destroy(workload: Workload) -> None:
        raise JobError(Cause.LOST_ENGINE, "busy")

    override(harness, destroy=destroy)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.plane.until_phase(item)
        folder = harness.root / "state" / "attempts"
        await eventually(lambda: not list(folder.iterdir()))
    assert harness.name(item) in harness.engine.workloads
    again = harness.name(item)
    async with harness.running():
        pass
    assert again in harness.engine.workloads
    harness.backends = dict
    async with harness.running():
        await eventually(lambda: again not in harness.engine.workloads)


async def test_a_backend_that_is_away_does_not_keep_others_from_being_pruned(
    harness: Harness,
) -> None:
    away = False

    async def owned() -> list[Workload]:
        if away:
            raise JobError(Cause.LOST_ENGINE, "gone")
        return []

    def backends(made: dict[str, Backend]) -> dict[str, Backend]:
        (backend,) = made.values()
        runner = OverriddenRunner(backend.runner, owned=owned, resource="local-process")
        return {"local-process": replace(backend, runner=runner), **made}

    harness.backends = backends
    harness.settings = {"prune": {"interval": 5.0}}
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        away = True
        harness.plane.take_over(item)
        item.phase = Phase.SUCCEEDED
        await eventually(lambda: harness.name(item) not in harness.engine.workloads)


async def test_a_log_that_does_not_end_is_a_warning_and_does_not_delay_the_outcome(
    harness: Harness,
) -> None:
    harness.limits = replace(harness.limits, log_stall=0.2)
    harness.engine.default = Scenario(output=b"some\n", log_hangs=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert any("end of the job's log is missing" in text for text in item.warnings)


async def test_bytes_that_the_engine_dropped_are_marked_across_restarts(harness: Harness) -> None:
    harness.engine.default = Scenario(output=b"0123456789" * 10, waits=True, log_lost=90)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        while not item.logs["job"].endswith(b"0123456789"):
            await harness.plane.changed()
    async with harness.running():
        harness.engine.write(harness.name(item), b"tail")
        harness.engine.release(harness.name(item))
        await harness.until_over(item)
    text = bytes(item.logs["job"]).decode()
    assert text.count("missing here") == 1
    assert text.endswith("\n0123456789tail")


async def test_an_image_for_a_resource_that_runs_none_is_refused(harness: Harness) -> None:
    harness.backends = lambda made: {
        name: replace(backend, images=None) for name, backend in made.items()
    }
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, Refused)
    assert "local-container" in (item.outcome.message)


async def test_code_without_entry_point_or_dockerfile_is_refused(harness: Harness) -> None:
    item = harness.plane.submit({"source": CODE_JOB["source"]})
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, Refused)
    assert item.outcome.cause is Cause.POLICY_SPEC


@pytest.mark.parametrize(
    ("builder", "base"),
    [
        ({"accelerator": {"base_image": "cuda"}}, "cuda"),
        ({"cuda": {"base_image": "old"}}, "old"),
        ({"base_image": "plain"}, "plain"),
        ({"base_image": 3}, None),
        ("text", None),
    ],
)
async def test_base_images_come_from_where_wandb_puts_them(
    harness: Harness, builder: Any, base: str | None
) -> None:
    spec = {**CODE_JOB, "resource_args": {"local-container": {"builder": builder}}}
    item = harness.plane.submit(spec)
    async with harness.running():
        await harness.until_over(item)
    assert harness.builder.requests[0].base_image == base


async def test_the_lease_of_an_item_that_cannot_be_returned_expires(harness: Harness) -> None:
    harness.images.hold = asyncio.Event()
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.images.reached.wait()
        harness.plane.fail_next("release", UnreachableError("away"))
        harness.last.stop()
        assert await process == 0
    assert item.holder == harness.identity


async def test_a_refusal_that_the_server_does_not_accept_is_dropped(harness: Harness) -> None:
    item = harness.plane.submit(IMAGE_JOB, resource="kubernetes")
    harness.plane.fail_next("finish", ConflictError("no"))
    other = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(other)
    assert item.outcome is None


async def test_an_unexpected_error_ends_its_own_attempt_only(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Journal, *args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Journal, "start_sent", broken)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, Errored)
    assert item.outcome.cause is Cause.INTERNAL
    assert harness.engine.starts(harness.name(item)) == 0


async def test_a_full_disk_under_the_journal_means_no_start_and_the_outcome_arrives(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Journal, batch: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Journal, "_commit", full)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, Errored)
    assert item.outcome.cause is Cause.DISK_FULL
    assert harness.engine.starts(harness.name(item)) == 0


async def test_an_outcome_being_reported_gets_one_more_second_at_shutdown(harness: Harness) -> None:
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        with harness.plane.hold("finish") as gate:
            await gate.reached.wait()
            harness.last.stop()
            while "DRAINING" not in harness.plane.statuses:
                await harness.plane.changed()
            gate.open.set()
            assert await process == 0
    assert item.outcome == Succeeded()


async def test_a_permit_that_is_not_answered_is_left_to_the_next_process(harness: Harness) -> None:
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        with harness.plane.hold("permit") as gate:
            await gate.reached.wait()
            harness.last.stop()
            assert await process == 0
    assert item.phase in {Phase.LEASED, Phase.PREPARING}
    assert harness.name(item) in harness.engine.workloads
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert len(harness.engine.created) == 1


async def test_jobs_that_cannot_be_stopped_do_not_block_the_second_level(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_AFTER_GRACE", 0.05)
    harness.limits = AttemptTimeouts(grace=0.0)
    harness.on_stop = "wait"

    async def stop(workload: Workload, grace: float) -> None:
        await asyncio.Event().wait()

    override(harness, stop=stop)
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running() as process:
        await harness.until_running(item)
        harness.last.stop()
        harness.last.stop()
        assert await process == 0
    assert harness.engine.workloads[harness.name(item)].ending is None


async def test_of_a_backend_that_schedules_by_itself_only_jobs_are_counted(
    harness: Harness,
) -> None:
    override(harness, demand=lambda arguments: None)
    harness.capacity = Capacity(slots=2, cpus=1.0)
    harness.engine.default = Scenario(waits=True)
    spec = {**IMAGE_JOB, "resources": {"cpus": 64.0, "gpus": 8}}
    first, second, third = (harness.plane.submit(spec) for _ in range(3))
    async with harness.running():
        await harness.until_running(first)
        await harness.until_running(second)
        assert third.epoch == 0
        assert [one.allocation for one in harness.engine.created] == [Allocation()] * 2
        harness.engine.release(harness.name(first))
        await harness.until_running(third)
