"""Every way a job can end, from the queue to the acknowledged outcome."""

import asyncio
import errno

import pytest

from agent.model.capacity import Capacity
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.model.outcome import Errored, Failed, Lost, Refused, Stopped, Succeeded
from agent.model.phase import Phase
from agent.pipeline.equipment import Limits
from agent.testing.scripted_runner import Play
from tests.unit.daemon.bench import CODE_JOB, GIT_JOB, IMAGE_JOB, Bench


async def test_a_ready_image_succeeds_and_nothing_is_left_of_it(bench: Bench) -> None:
    bench.engine.default = Play(output=b"hello\n")
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bytes(item.logs["job"]) == b"hello\n"
    assert item.history == [
        Phase.QUEUED, Phase.LEASED, Phase.PREPARING, Phase.PERMITTED, Phase.STARTED,
        Phase.SUCCEEDED,
    ]  # fmt: skip
    assert item.facts["image"] == "repo/name:tag@sha256:1"
    assert not list((bench.root / "state" / "attempts").iterdir())


async def test_code_is_built_once_and_reused(bench: Bench) -> None:
    first, second = bench.plane.submit(CODE_JOB), bench.plane.submit(CODE_JOB)
    async with bench.running():
        await bench.until_over(first)
        await bench.until_over(second)
        third = bench.plane.submit(CODE_JOB)
        await bench.until_over(third)
    assert bench.builder.builds == 1
    assert third.facts["image_reused"]
    assert b"step 1" in bytes(first.logs["setup"]) + bytes(second.logs["setup"])


async def test_a_repository_is_pinned_to_its_commit(bench: Bench) -> None:
    bench.git.commit = "c0ffee"
    item = bench.plane.submit(GIT_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert item.facts["commit"] == "c0ffee"
    (request,) = bench.engine.created
    assert request.command == ("python", "main.py")


@pytest.mark.parametrize(
    ("play", "kind", "cause"),
    [
        (Play(exit_code=3), Failed, Cause.RUN_EXIT_CODE),
        (Play(out_of_memory=True), Failed, Cause.RUN_OUT_OF_MEMORY),
        (
            Play(create_error=JobError(Cause.START_FAILED, "no room")),
            Errored,
            Cause.START_FAILED,
        ),
        (
            Play(start_error=JobError(Cause.START_ENTRYPOINT, "no such command")),
            Errored,
            Cause.START_ENTRYPOINT,
        ),
    ],
)
async def test_what_the_engine_says_becomes_the_cause(
    bench: Bench, play: Play, kind: type, cause: Cause
) -> None:
    bench.engine.default = play
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
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
    bench: Bench, error: Exception, kind: type, cause: Cause
) -> None:
    bench.code.error = error
    item = bench.plane.submit(CODE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert isinstance(item.outcome, kind)
    assert item.outcome.cause is cause
    assert bench.engine.calls.count(("create", bench.name(item))) == 0


async def test_a_failed_build_is_told_to_all_who_waited_for_it(bench: Bench) -> None:
    bench.builder.error = JobError(Cause.BUILD_REQUIREMENTS, "no such package: nope")
    items = [bench.plane.submit(CODE_JOB) for _ in range(3)]
    async with bench.running():
        for item in items:
            await bench.until_over(item)
    assert [item.outcome for item in items] == [
        Errored(Cause.BUILD_REQUIREMENTS, "no such package: nope")
    ] * 3


async def test_a_job_that_runs_too_long_is_stopped_with_grace(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit({**IMAGE_JOB, "timeout": 20.0})
    async with bench.running():
        await bench.until_over(item)
    assert isinstance(item.outcome, Failed)
    assert item.outcome.cause is Cause.RUN_DEADLINE
    assert bench.engine.graces[bench.name(item)] == 5.0


async def test_a_killed_job_names_the_signal(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.engine.kill(bench.name(item))
        await bench.until_over(item)
    assert isinstance(item.outcome, Failed)
    assert item.outcome.cause is Cause.RUN_SIGNAL


async def test_a_vanished_job_is_lost(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.engine.vanish(bench.name(item))
        await bench.plane.until_phase(item)
    assert isinstance(item.outcome, Lost)
    assert item.outcome.cause is Cause.LOST_WORKLOAD


async def test_an_engine_that_comes_back_in_time_costs_nothing(bench: Bench) -> None:
    bench.limits = Limits(grace=5.0, engine=600.0)
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.engine.go_away()
        for _ in range(50):
            await asyncio.sleep(0)
        bench.engine.come_back()
        while ("find", bench.name(item)) not in bench.engine.calls:
            await asyncio.sleep(0.001)
        bench.engine.release(bench.name(item))
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bench.engine.starts(bench.name(item)) == 1


async def test_an_engine_that_stays_away_loses_its_jobs(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.engine.go_away()
        await bench.plane.until_phase(item)
        bench.engine.come_back()
    assert isinstance(item.outcome, Lost)
    assert item.outcome.cause is Cause.LOST_ENGINE


async def test_a_start_whose_answer_was_cut_is_looked_at_and_not_repeated(bench: Bench) -> None:
    bench.engine.default = Play(output=b"once\n", start_answer_cut=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bench.engine.starts(bench.name(item)) == 1


async def test_a_job_without_a_source_is_refused(bench: Bench) -> None:
    item = bench.plane.submit({"overrides": {"entry_point": ["true"]}})
    async with bench.running():
        await bench.until_over(item)
    assert isinstance(item.outcome, Refused)
    assert item.outcome.cause is Cause.POLICY_SPEC


async def test_a_resource_that_nobody_serves_is_refused(bench: Bench) -> None:
    item = bench.plane.submit(IMAGE_JOB, resource="kubernetes")
    async with bench.running():
        await bench.until_over(item)
    assert isinstance(item.outcome, Refused)
    assert "local-container" in item.outcome.message


async def test_an_argument_that_is_not_allowed_is_refused_before_anything_is_fetched(
    bench: Bench,
) -> None:
    spec = {**CODE_JOB, "resource_args": {"local-container": {"privileged": True}}}
    item = bench.plane.submit(spec)
    async with bench.running():
        await bench.until_over(item)
    assert isinstance(item.outcome, Refused)
    assert item.outcome.cause is Cause.POLICY_RESOURCE
    assert not bench.builder.requests


async def test_a_stop_while_it_runs_stops_it_with_grace(bench: Bench) -> None:
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.plane.request_stop(item)
        await bench.until_over(item)
    assert item.outcome == Stopped("stopped on request; exit code 143", exit_code=143)


async def test_a_stop_before_it_starts_means_it_never_does(bench: Bench) -> None:
    bench.images.hold = asyncio.Event()
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.images.reached.wait()
        bench.plane.request_stop(item)
        await bench.until_over(item)
    assert isinstance(item.outcome, Stopped)
    assert bench.engine.starts(bench.name(item)) == 0


async def test_a_stop_that_comes_with_the_permit_means_it_never_starts(bench: Bench) -> None:
    item = bench.plane.submit(IMAGE_JOB)
    with bench.plane.hold("permit") as gate:
        async with bench.running():
            await gate.reached.wait()
            item.stop_requested = True
            gate.open.set()
            await bench.until_over(item)
    assert isinstance(item.outcome, Stopped)
    assert bench.engine.starts(bench.name(item)) == 0
    assert bench.name(item) not in bench.engine.workloads


async def test_gpus_are_pinned_and_never_handed_out_twice(bench: Bench) -> None:
    bench.capacity = Capacity(slots=4, gpus=("0", "1"))
    bench.engine.default = Play(waits=True)
    spec = {**IMAGE_JOB, "resources": {"gpus": 1}}
    items = [bench.plane.submit(spec) for _ in range(3)]
    async with bench.running():
        await bench.until_running(items[0])
        await bench.until_running(items[1])
        given = sorted(request.allocation.gpus for request in bench.engine.created)
        assert given == [("0",), ("1",)]
        bench.engine.release(bench.name(items[0]))
        await bench.until_running(items[2])
        bench.engine.release(bench.name(items[1]))
        bench.engine.release(bench.name(items[2]))
        for item in items:
            await bench.until_over(item)
    assert [item.outcome for item in items] == [Succeeded()] * 3
