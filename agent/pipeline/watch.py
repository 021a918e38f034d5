"""A running workload, watched to its end: stop requests, its deadline, a lost engine."""

import asyncio
from typing import Final

import structlog

from agent.model.cause import Cause
from agent.model.errors import JobError, LaunchError
from agent.pipeline.cancellation import (
    WHILE_CONCLUDING,
    AttemptCancelledError,
    Cancellation,
    CancelReason,
    cancel_task,
)
from agent.pipeline.dependencies import Limits
from agent.pipeline.outcome import StoppedBy
from agent.pipeline.retry import Backoff, Sleep
from agent.ports.runner import Ending, RunnerPort, Workload, WorkloadState

_STOPS: Final = {CancelReason.STOP: StoppedBy.USER, CancelReason.ABORT: StoppedBy.AGENT}
#: What ends or leaves a running workload; being handed back does not.
_MATTERS: Final = WHILE_CONCLUDING | frozenset(_STOPS)


class Watch:
    """Watches one workload; use once."""

    def __init__(
        self,
        runner: RunnerPort,
        workload: Workload,
        cancellation: Cancellation,
        limits: Limits,
        sleep: Sleep,
    ) -> None:
        self._runner = runner
        self._workload = workload
        self._cancellation = cancellation
        self._limits = limits
        self._sleep = sleep
        self._why: StoppedBy | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def until_ended(self, remaining: float | None) -> tuple[Ending, StoppedBy | None]:
        """How it ended, and who ended it if we did; `remaining` seconds to its deadline.

        Raises:
            AttemptCancelledError: detached or fenced; the workload goes on.
            JobError: `LOST_WORKLOAD`, `LOST_ENGINE`.
        """
        name = f"wait-{self._workload.name}"
        waiting = asyncio.create_task(self._wait(), name=name)
        deadline = asyncio.create_task(self._deadline(remaining), name=f"deadline-{name}")
        try:
            while not waiting.done():
                await self._next(waiting, deadline)
            await self._stopped()
            return self._ending(waiting), self._why
        finally:
            await cancel_task(self._stopping)
            await cancel_task(deadline)
            if not waiting.done():
                await cancel_task(waiting)

    async def _stopped(self) -> None:
        """The first process has ended; what it leaves behind is killed before we go on."""
        if self._stopping is not None:
            await asyncio.wait({self._stopping}, timeout=self._limits.grace)

    def _ending(self, waiting: asyncio.Task[Ending]) -> Ending:
        try:
            return waiting.result()
        except JobError as error:
            if self._why is None or error.cause is not Cause.LOST_WORKLOAD:
                raise
            # We stopped it, and it is gone: that is what was asked for.
            return Ending(exit_code=None)

    async def _next(self, waiting: asyncio.Task[Ending], deadline: asyncio.Task[None]) -> None:
        """Wait for one thing to happen, and act on it."""
        among = WHILE_CONCLUDING if self._why else _MATTERS
        alarm = asyncio.create_task(self._cancellation.wait(among))
        timer = {deadline} if self._why is None else set()
        try:
            await asyncio.wait({waiting, alarm, *timer}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return
            if alarm.done():
                self._recall(alarm.result())
            else:
                self._stop(StoppedBy.DEADLINE)
        finally:
            await cancel_task(alarm)

    def _recall(self, cause: CancelReason) -> None:
        why = _STOPS.get(cause)
        if why is None:
            raise AttemptCancelledError(cause)
        self._stop(why)

    def _stop(self, why: StoppedBy) -> None:
        self._why = why
        self._stopping = asyncio.create_task(self._stop_surely(), name="stop")

    async def _stop_surely(self) -> None:
        backoff = Backoff()
        while True:
            try:
                return await self._runner.stop(self._workload, self._limits.grace)
            except LaunchError as error:
                structlog.get_logger().warning("stopping the job failed; again", error=str(error))
                await self._sleep(backoff.pause())

    async def _deadline(self, remaining: float | None) -> None:
        if remaining is None:
            await asyncio.Event().wait()
        else:
            await self._sleep(remaining)

    async def _wait(self) -> Ending:
        """Wait through an engine that comes back while the workload goes on."""
        while True:
            try:
                return await self._runner.wait(self._workload)
            except JobError as error:
                if error.cause is not Cause.LOST_ENGINE:
                    raise
                structlog.get_logger().warning("the engine went away under a job", error=str(error))
                self._workload = await self._find_again(error)

    async def _find_again(self, lost: JobError) -> Workload:
        """The workload, still running, once the engine is back."""
        waited, pause = 0.0, 0.5
        while waited < self._limits.engine:
            try:
                found = await self._runner.find(self._workload.name)
            except JobError:
                await self._sleep(pause)
                waited += pause
                continue
            if found is not None and found.state is WorkloadState.RUNNING:
                return found
            raise self._lost(lost, found)
        raise lost

    def _lost(self, lost: JobError, found: Workload | None) -> JobError:
        """An engine that stops takes its jobs along; their exit codes tell nothing then."""
        if found is None:
            return JobError(Cause.LOST_ENGINE, f"{lost.message} The job is gone with it.")
        code = found.ending.exit_code if found.ending else None
        message = f"{lost.message} The job had ended when it came back (exit code {code})."
        return JobError(Cause.LOST_ENGINE, message)
