"""Conformance tests for runners whose backend schedules by itself, such as a cluster."""

import asyncio
from itertools import pairwise
from typing import Protocol

from agent.model.cause import Cause
from agent.ports.runner import Ended, Ending, Pending, Running, Started, WorkloadState
from agent.testing.runner_suite import (
    Driver,
    RunnerSuite,
    Scenario,
    bare,
    ended,
    first_piece,
    launched,
    read_all,
    started_before,
    watched,
)


class QueueingDriver(Driver, Protocol):
    """A backend that finds a place for a started job when it sees fit."""

    def wording(self, reason: Pending) -> str:
        """A part of the sentence in which the backend tells a scenario's reason."""

    async def place(self, name: str) -> None:
        """End the job's present reason to wait; after the last one it runs."""

    async def preempt(self, name: str) -> None:
        """Take the machine away from a running job."""

    async def lose_node(self, name: str) -> None:
        """The machine under a running job stops answering."""


#: A backend uses words of its own, see `QueueingDriver.wording`.
_FIRST = Pending(Cause.SCHEDULE_QUOTA, "quota 'gpus' is used up")
_THEN = Pending(Cause.SCHEDULE_NO_NODE, "0 of 3 nodes have room")


def _words(pending: Pending) -> tuple[Cause, str]:
    return pending.cause, pending.message


class QueueingRunnerSuite(RunnerSuite):
    """More tests, for runners whose backend queues and whose starts may be repeated."""

    async def test_a_started_job_is_pending_until_it_is_placed(
        self, driver: QueueingDriver
    ) -> None:
        """Each reason once, with its cause; then it runs.

        A backend may have further reasons in between.
        """
        runner = driver.runner()
        request = driver.request(Scenario(b"ran\n", exit_code=3, pending=(_FIRST, _THEN)))
        workload = await launched(runner, request)
        assert workload.state is WorkloadState.PENDING
        assert workload.started_at is None
        assert (await started_before(driver.runner(), workload)).state is WorkloadState.PENDING
        watching = runner.watch(workload)
        told: list[Pending] = []
        for reason in (_FIRST, _THEN):
            async for pending in watching:
                assert isinstance(pending, Pending)
                told.append(pending)
                if pending.cause is reason.cause:
                    break
            assert driver.wording(reason) in told[-1].message
            assert told[-1].since is not None
            assert not told[-1].permanent
            await driver.place(request.name)
        rest = [each async for each in watching]
        told += [each for each in rest if isinstance(each, Pending)]
        assert all(_words(one) != _words(next_one) for one, next_one in pairwise(told))
        running, end = rest[-2:]
        assert all(isinstance(each, Pending) for each in rest[:-2])
        assert isinstance(running, Running)
        assert isinstance(end, Ended)
        assert bare(end.ending) == Ending(3)
        assert await read_all(runner, workload) == b"ran\n"
        assert await driver.starts(request.name) == 1

    async def test_another_agent_finds_a_pending_job(self, driver: QueueingDriver) -> None:
        """It was started; it is not started again."""
        request = driver.request(Scenario(pending=(_FIRST,)))
        await launched(driver.runner(), request)
        adopter = driver.runner()
        (found,) = await adopter.owned()
        assert found.state is WorkloadState.PENDING
        await driver.place(request.name)
        assert bare(await ended(adopter, found)) == Ending(0)
        assert await driver.starts(request.name) == 1

    async def test_a_pending_job_can_be_stopped(self, driver: QueueingDriver) -> None:
        """It never runs, and watchers get an ending."""
        runner = driver.runner()
        workload = await launched(runner, driver.request(Scenario(b"no\n", pending=(_FIRST,))))
        watching = asyncio.create_task(watched(runner, workload))
        await runner.stop(workload, 5)
        progress = await watching
        assert not any(isinstance(each, Running) for each in progress)
        await runner.destroy(workload)
        assert await runner.owned() == []

    async def test_preemption_is_a_cause(self, driver: QueueingDriver) -> None:
        """Whatever the exit code."""
        runner = driver.runner()
        workload = await launched(runner, driver.request(Scenario(b"up\n", waits=True)))
        await first_piece(runner, workload)
        await driver.preempt(workload.name)
        ending = await ended(runner, workload)
        assert ending.cause is Cause.PREEMPTED
        assert ending.message

    async def test_a_lost_node_is_a_cause(self, driver: QueueingDriver) -> None:
        """The result of the job is unknown."""
        runner = driver.runner()
        workload = await launched(runner, driver.request(Scenario(b"up\n", waits=True)))
        await first_piece(runner, workload)
        await driver.lose_node(workload.name)
        ending = await ended(runner, workload)
        assert (ending.exit_code, ending.cause) == (None, Cause.LOST_NODE)

    async def test_a_start_that_was_lost_is_repeated(self, driver: QueueingDriver) -> None:
        """The name is the fence: repeating it is safe, and settles what happened."""
        for item, scenario in (
            ("request", Scenario(starts_lost=1)),
            ("answer", Scenario(start_answer_lost=True)),
        ):
            runner = driver.runner()
            request = driver.request(scenario, item)
            result = await runner.start(await runner.create(request))
            assert isinstance(result, Started)
            assert bare(await ended(runner, result.workload)) == Ending(0)
            assert await driver.starts(request.name) == 1
