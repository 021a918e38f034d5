"""Every way a job can end, from the queue to the acknowledged outcome."""

import asyncio
import errno

import pytest

from agent.model.capacity import Capacity
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.model.phase import Errored, Failed, Lost, Phase, Refused, Stopped, Succeeded
from agent.pipeline.dependencies import AttemptTimeouts
from agent.testing.runner_suite import Scenario
from tests.unit.daemon.harness import CODE_JOB, GIT_JOB, IMAGE_JOB, Harness, eventually


async def test_a_ready_image_succeeds_and_nothing_is_left_of_it(harness: Harness) -> None:
    harness.engine.default = Scenario(output=b"hello\n")
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert bytes(item.logs["job"]) == b"hello\n"
    assert item.history == [
        Phase.QUEUED, Phase.LEASED, Phase.PREPARING, Phase.PERMITTED, Phase.STARTED,
        Phase.SUCCEEDED,
    ]  # fmt: skip
    assert item.facts["image"] == "repo/name:tag@sha256:1"
    assert not list((harness.root / "state" / "attempts").iterdir())


async def test_code_is_built_once_and_reused(harness: Harness) -> None:
    first, second = harness.plane.submit(CODE_JOB), harness.plane.submit(CODE_JOB)
    async with harness.running():
        await harness.until_over(first)
        await harness.until_over(second)
        third = harness.plane.submit(CODE_JOB)
        await harness.until_over(third)
    assert harness.builder.builds == 1
    assert third.facts["image_reused"]
    assert b"step 1" in bytes(first.logs["setup"]) + bytes(second.logs["setup"])


async def test_a_repository_is_pinned_to_its_commit(harness: Harness) -> None:
    harness.git.commit = "c0ffee"
    item = harness.plane.submit(GIT_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.facts["commit"] == "c0ffee"
    (request,) = harness.engine.created
    assert request.command == ("python", "main.py")


@pytest.mark.parametrize(
    ("scenario", "kind", "cause"),
    [
        (Scenario(exit_code=3), Failed, Cause.RUN_EXIT_CODE),
        (Scenario(out_of_memory=True), Failed, Cause.RUN_OUT_OF_MEMORY),
        (
            Scenario(create_error=JobError(Cause.START_FAILED, "no room")),
            Errored,
            Cause.START_FAILED,
        ),
        (
            Scenario(start_error=JobError(Cause.START_ENTRYPOINT, "no such command")),
            Errored,
            Cause.START_ENTRYPOINT,
        ),
    ],
)
async def test_errors_of_the_engine_become_the_cause(
    harness: Harness, scenario: Scenario, kind: type, cause: Cause
) -> None:
    harness.engine.default = scenario
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, kind)
    assert item.outcome.cause is cause


@pytest.mark.parametrize(
    ("error", "kind", "cause"),
    [
        (JobError(Cause.SOURCE_AUTH, "password"), Errored, Cause.SOURCE_AUTH),
        (PolicyError(Cause.POLICY_SOURCE, "not there"), Refused, Cause.POLICY_SOURCE),
        (OSError(errno.ENOSPC, "No space left"), Errored, Cause.DISK_FULL),
        (RuntimeError("a bug"), Errored, Cause.INTERNAL),
    ],
)
async def test_what_a_source_raises_becomes_the_outcome(
    harness: Harness, error: Exception, kind: type, cause: Cause
) -> None:
    harness.code.error = error
    item = harness.plane.submit(CODE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, kind)
    assert item.outcome.cause is cause
    assert harness.engine.calls.count(("create", harness.name(item))) == 0


async def test_a_failed_build_fails_every_attempt_that_waits_for_it(harness: Harness) -> None:
    harness.builder.error = JobError(Cause.BUILD_REQUIREMENTS, "no such package: nope")
    items = [harness.plane.submit(CODE_JOB) for _ in range(3)]
    async with harness.running():
        for item in items:
            await harness.until_over(item)
    assert [item.outcome for item in items] == [
        Errored(Cause.BUILD_REQUIREMENTS, "no such package: nope")
    ] * 3


async def test_a_job_that_runs_too_long_is_stopped_with_grace(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit({**IMAGE_JOB, "timeout": 20.0})
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, Failed)
    assert item.outcome.cause is Cause.RUN_DEADLINE
    assert harness.engine.graces[harness.name(item)] == 5.0


async def test_a_killed_job_names_the_signal(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.engine.kill(harness.name(item))
        await harness.until_over(item)
    assert isinstance(item.outcome, Failed)
    assert item.outcome.cause is Cause.RUN_SIGNAL


async def test_a_vanished_job_is_lost(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.engine.vanish(harness.name(item))
        await harness.plane.until_phase(item)
    assert isinstance(item.outcome, Lost)
    assert item.outcome.cause is Cause.LOST_WORKLOAD


async def test_an_engine_that_comes_back_in_time_costs_nothing(harness: Harness) -> None:
    harness.limits = AttemptTimeouts(grace=5.0, engine=600.0)
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.engine.go_away()
        await harness.until_call_failed("watch")
        harness.engine.come_back()
        await eventually(lambda: ("find", harness.name(item)) in harness.engine.calls)
        harness.engine.release(harness.name(item))
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1


async def test_an_engine_that_stays_away_loses_its_jobs(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.engine.go_away()
        await harness.plane.until_phase(item)
        harness.engine.come_back()
    assert isinstance(item.outcome, Lost)
    assert item.outcome.cause is Cause.LOST_ENGINE


async def test_a_start_whose_answer_was_lost_is_not_repeated(harness: Harness) -> None:
    harness.engine.default = Scenario(output=b"once\n", start_answer_lost=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_over(item)
    assert item.outcome == Succeeded()
    assert harness.engine.starts(harness.name(item)) == 1


async def test_a_job_without_a_source_is_refused(harness: Harness) -> None:
    item = harness.plane.submit({"overrides": {"entry_point": ["true"]}})
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, Refused)
    assert item.outcome.cause is Cause.POLICY_SPEC


async def test_a_resource_that_the_agent_does_not_serve_is_refused(harness: Harness) -> None:
    item = harness.plane.submit(IMAGE_JOB, resource="kubernetes")
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, Refused)
    assert "local-container" in item.outcome.message


async def test_an_argument_that_is_not_allowed_is_refused_before_anything_is_fetched(
    harness: Harness,
) -> None:
    spec = {**CODE_JOB, "resource_args": {"local-container": {"privileged": True}}}
    item = harness.plane.submit(spec)
    async with harness.running():
        await harness.until_over(item)
    assert isinstance(item.outcome, Refused)
    assert item.outcome.cause is Cause.POLICY_RESOURCE
    assert not harness.builder.requests


async def test_a_stop_while_it_runs_stops_it_with_grace(harness: Harness) -> None:
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.plane.request_stop(item)
        await harness.until_over(item)
    assert item.outcome == Stopped("stopped on request; exit code 143", exit_code=143)


async def test_a_stop_before_it_starts_means_it_never_does(harness: Harness) -> None:
    harness.images.hold = asyncio.Event()
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.images.reached.wait()
        harness.plane.request_stop(item)
        await harness.until_over(item)
    assert isinstance(item.outcome, Stopped)
    assert harness.engine.starts(harness.name(item)) == 0


async def test_a_stop_that_comes_with_the_permit_means_it_never_starts(harness: Harness) -> None:
    item = harness.plane.submit(IMAGE_JOB)
    with harness.plane.hold("permit") as gate:
        async with harness.running():
            await gate.reached.wait()
            item.stop_requested = True
            gate.open.set()
            await harness.until_over(item)
    assert isinstance(item.outcome, Stopped)
    assert harness.engine.starts(harness.name(item)) == 0
    assert harness.name(item) not in harness.engine.workloads


async def test_gpus_are_pinned_and_never_allocated_twice(harness: Harness) -> None:
    harness.capacity = Capacity(slots=4, gpus=("0", "1"))
    harness.engine.default = Scenario(waits=True)
    spec = {**IMAGE_JOB, "resources": {"gpus": 1}}
    items = [harness.plane.submit(spec) for _ in range(3)]
    async with harness.running():
        await harness.until_running(items[0])
        await harness.until_running(items[1])
        given = sorted(request.allocation.gpus for request in harness.engine.created)
        assert given == [("0",), ("1",)]
        harness.engine.release(harness.name(items[0]))
        await harness.until_running(items[2])
        harness.engine.release(harness.name(items[1]))
        harness.engine.release(harness.name(items[2]))
        for item in items:
            await harness.until_over(item)
    assert [item.outcome for item in items] == [Succeeded()] * 3
