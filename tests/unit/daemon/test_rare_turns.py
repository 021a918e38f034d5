"""Turns of the line that are taken seldom."""

import asyncio
import sqlite3
from dataclasses import replace
from typing import Any

import pytest

from agent.daemon import service
from agent.daemon.journal import Journal
from agent.model.cause import Cause
from agent.model.errors import ConflictError, JobError, UnreachableError
from agent.model.outcome import Errored, Lost, Refused, Stopped, Succeeded
from agent.model.phase import Phase
from agent.pipeline.equipment import Backend, Limits
from agent.ports.runner import Workload
from agent.testing.scripted_runner import Play, ScriptedRunner
from tests.unit.daemon.bench import CODE_JOB, IMAGE_JOB, Bench, Crash


class Meddling:
    """A runner that is itself but for some calls."""

    def __init__(self, inner: Any, **calls: Any) -> None:
        self._inner = inner
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._inner, name)


def meddle(bench: Bench, **calls: Any) -> None:
    def backends(made: dict[str, Backend]) -> dict[str, Backend]:
        return {
            name: replace(backend, runner=Meddling(backend.runner, **calls))
            for name, backend in made.items()
        }

    bench.backends = backends


@pytest.mark.parametrize(("started", "kind"), [(True, Succeeded), (False, Succeeded)])
async def test_an_engine_lost_under_a_start_is_asked_what_became_of_it(
    bench: Bench, started: bool, kind: type
) -> None:
    bench.limits = Limits(grace=5.0, engine=600.0)
    runner = ScriptedRunner(bench.engine, "fake0plane")
    sent = 0

    async def start(workload: Workload) -> Workload:
        nonlocal sent
        sent += 1
        if sent == 1 and not started:
            raise JobError(Cause.LOST_ENGINE, "gone before it looked")
        result = await runner.start(workload)
        if sent == 1:
            raise JobError(Cause.LOST_ENGINE, "gone after it looked")
        return result

    meddle(bench, start=start)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert isinstance(item.outcome, kind)
    assert bench.engine.starts(bench.name(item)) == 1
    assert sent == (1 if started else 2)


async def test_a_start_that_takes_effect_late_is_not_sent_again(bench: Bench) -> None:
    """1. The connection breaks. 2. The engine goes on with the start. 3. Looks find it."""
    bench.limits = Limits(grace=5.0, engine=600.0)
    runner = ScriptedRunner(bench.engine, "fake0plane")
    looks = sent = 0

    async def start(workload: Workload) -> Workload:
        nonlocal sent
        sent += 1
        raise JobError(Cause.LOST_ENGINE, "cut")

    async def find(name: str) -> Workload | None:
        nonlocal looks
        looks += 1
        found = await runner.find(name)
        if sent and looks == 3:
            assert found is not None
            await runner.start(found)
        return found

    meddle(bench, start=start, find=find)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert (sent, bench.engine.starts(bench.name(item))) == (1, 1)


async def test_an_engine_that_stays_away_under_a_start_leaves_it_lost(bench: Bench) -> None:
    async def start(workload: Workload) -> Workload:
        bench.engine.go_away()
        raise JobError(Cause.LOST_ENGINE, "gone.")

    meddle(bench, start=start)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.plane.until_phase(item)
        bench.engine.come_back()
    assert isinstance(item.outcome, Lost)
    assert "may have been started" in item.outcome.message


async def test_a_workload_that_vanished_under_a_start_is_lost(bench: Bench) -> None:
    async def start(workload: Workload) -> Workload:
        bench.engine.vanish(workload.name)
        raise JobError(Cause.LOST_ENGINE, "gone.")

    meddle(bench, start=start)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.plane.until_phase(item)
    assert isinstance(item.outcome, Lost)


async def test_what_was_started_already_is_followed_and_not_started(bench: Bench) -> None:
    """The plane was restored from a backup: it forgot the permit of a running job."""
    bench.engine.default = Play(output=b"out\n", waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    left = await bench.die(Crash("start", "after"))
    item.phase = Phase.PREPARING
    async with bench.running(state=left):
        await bench.plane.until_called("permit", 2)
        bench.engine.release(bench.name(item))
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bench.engine.starts(bench.name(item)) == 1


async def test_a_created_workload_that_runs_after_all_is_followed(bench: Bench) -> None:
    runner = ScriptedRunner(bench.engine, "fake0plane")

    async def create(request: Any) -> Workload:
        made = await runner.create(request)
        await runner.start(made)
        return made

    meddle(bench, create=create)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert bench.engine.starts(bench.name(item)) == 1


async def test_stopping_is_tried_until_the_engine_obeys(bench: Bench) -> None:
    runner = ScriptedRunner(bench.engine, "fake0plane")
    tries = 0

    async def stop(workload: Workload, grace: float) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise JobError(Cause.LOST_ENGINE, "busy")
        await runner.stop(workload, grace)

    meddle(bench, stop=stop)
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit({**IMAGE_JOB, "timeout": 5.0})
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome is not None
    assert item.outcome.cause is Cause.RUN_DEADLINE
    assert tries == 3


async def test_what_vanishes_while_it_is_stopped_was_stopped(bench: Bench) -> None:
    async def stop(workload: Workload, grace: float) -> None:
        bench.engine.vanish(workload.name)

    meddle(bench, stop=stop)
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.plane.request_stop(item)
        await bench.until_over(item)
    assert isinstance(item.outcome, Stopped)


async def test_a_job_that_went_with_its_engine_is_lost_whatever_its_exit_code(
    bench: Bench,
) -> None:
    bench.limits = Limits(grace=5.0, engine=600.0)
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.engine.go_away()
        for _ in range(50):
            await asyncio.sleep(0)
        bench.engine.release(bench.name(item))
        bench.engine.come_back()
        await bench.until_over(item)
    assert isinstance(item.outcome, Lost)
    assert item.outcome.cause is Cause.LOST_ENGINE


async def test_a_job_that_is_gone_with_its_engine_is_lost(bench: Bench) -> None:
    bench.limits = Limits(grace=5.0, engine=600.0)
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.engine.go_away()
        for _ in range(50):
            await asyncio.sleep(0)
        bench.engine.vanish(bench.name(item))
        bench.engine.come_back()
        await bench.plane.until_phase(item)
    assert isinstance(item.outcome, Lost)


async def test_what_cannot_be_removed_is_left_to_the_sweeper(bench: Bench) -> None:
    async def destroy(workload: Workload) -> None:
        raise JobError(Cause.LOST_ENGINE, "busy")

    meddle(bench, destroy=destroy)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.plane.until_phase(item)
        while list((bench.root / "state" / "attempts").iterdir()):
            await asyncio.sleep(0.001)
    assert bench.name(item) in bench.engine.workloads
    again = bench.name(item)
    async with bench.running():
        pass
    assert again in bench.engine.workloads
    bench.backends = dict
    async with bench.running():
        while again in bench.engine.workloads:
            await asyncio.sleep(0.001)


async def test_a_log_that_does_not_end_is_said_so_and_does_not_keep_the_outcome(
    bench: Bench,
) -> None:
    bench.engine.default = Play(output=b"some\n", log_hangs=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert any("end of the job's log is missing" in text for text in item.warnings)


async def test_bytes_that_the_engine_dropped_are_marked_across_restarts(bench: Bench) -> None:
    bench.engine.default = Play(output=b"0123456789" * 10, waits=True, log_lost=90)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        while not item.logs["job"].endswith(b"0123456789"):
            await bench.plane.changed()
    async with bench.running():
        bench.engine.write(bench.name(item), b"tail")
        bench.engine.release(bench.name(item))
        await bench.until_over(item)
    text = bytes(item.logs["job"]).decode()
    assert text.count("missing here") == 1
    assert text.endswith("\n0123456789tail")


async def test_an_image_for_a_resource_that_runs_none_is_refused(bench: Bench) -> None:
    bench.backends = lambda made: {
        name: replace(backend, images=None) for name, backend in made.items()
    }
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert isinstance(item.outcome, Refused)
    assert "local-container" in (item.outcome.message)


async def test_code_without_entry_point_or_dockerfile_is_refused(bench: Bench) -> None:
    item = bench.plane.submit({"source": CODE_JOB["source"]})
    async with bench.running():
        await bench.until_over(item)
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
    bench: Bench, builder: Any, base: str | None
) -> None:
    spec = {**CODE_JOB, "resource_args": {"local-container": {"builder": builder}}}
    item = bench.plane.submit(spec)
    async with bench.running():
        await bench.until_over(item)
    assert bench.builder.requests[0].base_image == base


async def test_what_cannot_be_handed_back_lapses(bench: Bench) -> None:
    bench.images.hold = asyncio.Event()
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.images.reached.wait()
        bench.plane.fail_next("release", UnreachableError("away"))
        bench.last.stop()
        assert await process == 0
    assert item.holder == bench.identity


async def test_a_refusal_that_is_refused_harms_nobody(bench: Bench) -> None:
    item = bench.plane.submit(IMAGE_JOB, resource="kubernetes")
    bench.plane.fail_next("finish", ConflictError("no"))
    other = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(other)
    assert item.outcome is None


async def test_a_bug_of_ours_in_an_attempt_ends_the_attempt_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Journal, *args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Journal, "start_intended", broken)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert isinstance(item.outcome, Errored)
    assert item.outcome.cause is Cause.INTERNAL
    assert bench.engine.starts(bench.name(item)) == 0


async def test_a_full_disk_under_the_journal_means_no_start_and_the_outcome_arrives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Journal, batch: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Journal, "_commit", full)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_over(item)
    assert isinstance(item.outcome, Errored)
    assert item.outcome.cause is Cause.DISK_FULL
    assert bench.engine.starts(bench.name(item)) == 0


async def test_an_outcome_on_its_way_gets_a_last_second(bench: Bench) -> None:
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        with bench.plane.hold("finish") as gate:
            await gate.reached.wait()
            bench.last.stop()
            while "DRAINING" not in bench.plane.statuses:
                await bench.plane.changed()
            gate.open.set()
            assert await process == 0
    assert item.outcome == Succeeded()


async def test_a_permit_that_is_not_answered_is_left_to_the_next_process(bench: Bench) -> None:
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        with bench.plane.hold("permit") as gate:
            await gate.reached.wait()
            bench.last.stop()
            assert await process == 0
    assert item.phase in {Phase.LEASED, Phase.PREPARING}
    assert bench.name(item) in bench.engine.workloads
    async with bench.running():
        await bench.until_over(item)
    assert item.outcome == Succeeded()
    assert len(bench.engine.created) == 1


async def test_jobs_that_do_not_die_do_not_keep_a_hurried_agent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_AFTER_GRACE", 0.05)
    bench.limits = Limits(grace=0.0)
    bench.on_stop = "wait"

    async def stop(workload: Workload, grace: float) -> None:
        await asyncio.Event().wait()

    meddle(bench, stop=stop)
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running() as process:
        await bench.until_running(item)
        bench.last.stop()
        bench.last.stop()
        assert await process == 0
    assert bench.engine.workloads[bench.name(item)].ending is None
