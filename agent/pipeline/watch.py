"""A started workload → Outcome: report progress, enforce time limits, stop on request."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final, assert_never

import structlog

from agent.model.cause import Cause
from agent.model.errors import JobError, LaunchError
from agent.model.phase import Outcome, Phase
from agent.pipeline.cancellation import WHILE_REPORTING, AttemptCancelledError, CancelReason
from agent.pipeline.dependencies import AttemptContext
from agent.pipeline.logs import FROM_START, ResumePoint
from agent.pipeline.outcome import StoppedBy, outcome_of
from agent.ports.runner import Ended, Ending, Pending, Pod, Running, Workload, WorkloadState
from agent.system.backoff import Backoff
from agent.system.tasks import cancel_task

_STOPS: Final = {CancelReason.STOP: StoppedBy.USER, CancelReason.ABORT: StoppedBy.AGENT}
#: Reasons that stop a started workload or stop watching it; RELEASE comes too late for it.
_AFTER_START: Final = WHILE_REPORTING | frozenset(_STOPS)


async def watch(
    context: AttemptContext, workload: Workload, resume: ResumePoint = FROM_START
) -> Outcome:
    """Follow a started workload to its end.

    `resume`: where an earlier process was in the job's log.

    Raises:
        AttemptCancelledError: detached or fenced; the workload goes on.
        JobError: `LOST_ENGINE`: the backend was unreachable for too long.
    """
    watcher = _Watcher(context, workload, resume)
    try:
        return await watcher.until_ended()
    finally:
        # The allocation is free for the next job.
        context.free_allocation()


class _Watcher:
    """Watches one workload; use once.

    Three things happen concurrently: the runner's progress is reported, time limits run (the
    job's timeout once it runs, `pending_timeout` whenever it is pending), and cancellation is
    waited for.
    """

    def __init__(self, context: AttemptContext, workload: Workload, resume: ResumePoint) -> None:
        self._context = context
        self._runner = context.backend.runner
        self._workload = workload
        self._resume = resume
        self._limits = context.dependencies.limits
        self._sleep = context.dependencies.sleep
        self._running = False
        #: The last progress, if that was pending.
        self._pending: Pending | None = None
        self._pending_timer: asyncio.Task[None] | None = None
        self._deadline_timer: asyncio.Task[None] | None = None
        self._limit: float | None = None
        self._stopped_by: StoppedBy | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def until_ended(self) -> Outcome:
        name = f"watch-{self._workload.name}"
        following = asyncio.create_task(self._follow(), name=name)
        try:
            while not following.done():
                await self._next(following)
            if self._stopping is not None:
                # The first process has ended; what it leaves behind is killed before we go on.
                await asyncio.wait({self._stopping}, timeout=self._limits.grace)
            ending = following.result()
            return outcome_of(ending, self._stopped_by, self._limit, self._pending)
        finally:
            for task in (self._stopping, self._pending_timer, self._deadline_timer):
                await cancel_task(task)
            if not following.done():
                await cancel_task(following)

    async def _next(self, following: asyncio.Task[Ending]) -> None:
        among = _AFTER_START if self._stopped_by is None else WHILE_REPORTING
        cancelled = asyncio.create_task(self._context.cancellation.wait(among))
        try:
            await asyncio.wait({following, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                return
            reason = cancelled.result()
            if reason not in _STOPS:
                raise AttemptCancelledError(reason)
            self._stop(_STOPS[reason])
        finally:
            await cancel_task(cancelled)

    async def _follow(self) -> Ending:
        """Report progress until the end; watch again when the engine answers again."""
        ending: Ending | None = None
        while True:
            try:
                async for progress in self._runner.watch(self._workload):
                    match progress:
                        case Pending():
                            self._note_pending(progress)
                        case Running():
                            self._note_running(progress)
                        case Ended():
                            ending = progress.ending
                            self._note_pods(progress.pods)
                        case never:
                            assert_never(never)
                if ending is not None:
                    return ending
                message = f"the runner stopped watching '{self._workload.name}' before its end"
                return Ending(None, cause=Cause.LOST_WORKLOAD, message=message)
            except JobError as error:
                if error.cause is not Cause.LOST_ENGINE:
                    raise
                structlog.get_logger().warning(
                    "the engine became unreachable while a job ran", error=str(error)
                )
                self._workload = await self._find_again(error)

    def _note_pending(self, pending: Pending) -> None:
        if self._stopped_by is not None:
            return  # it is being stopped: its outcome tells what it waited for until then
        before, self._pending = self._pending, pending
        self._note_pods(pending.pods)
        self._context.report.note(
            activity=f"pending: {pending.message}", facts={"pending_cause": pending.cause}
        )
        if before is not None and before.cause is pending.cause and not pending.permanent:
            return
        self._end_wait()
        limit = 0.0 if pending.permanent else self._limits.pending.of(pending.cause)
        self._pending_timer = self._timer(limit, pending.since, StoppedBy.PENDING_TIMEOUT)

    def _note_pods(self, pods: tuple[Pod, ...]) -> None:
        if pods:
            self._context.report.note(facts={"pods": [asdict(pod) for pod in pods]})

    def _note_running(self, running: Running) -> None:
        self._note_pods(running.pods)
        if self._running and self._pending is None:
            return  # watched again after the engine came back
        facts: dict[str, Any] = {"workload": self._workload.name}
        if self._pending is not None:
            facts["pending_cause"] = None
        if self._stopped_by is None:
            self._pending = None
        self._end_wait()
        self._context.report.note(phase=Phase.STARTED, activity="running", facts=facts)
        if self._running:
            return
        self._running = True
        self._context.report.new_job_log(self._runner).begin(self._workload, self._resume)
        timeout = self._context.claim.spec.timeout
        self._deadline_timer = self._timer(timeout, running.since, StoppedBy.DEADLINE)

    def _end_wait(self) -> None:
        if self._pending_timer is not None:
            self._pending_timer.cancel()

    def _timer(
        self, limit: float | None, since: datetime | None, by: StoppedBy
    ) -> asyncio.Task[None] | None:
        if limit is None or self._stopped_by is not None:
            return None
        # An adopted job has used up some of it.
        used = 0.0 if since is None else (datetime.now(UTC) - since).total_seconds()
        remaining = max(0.0, limit - max(0.0, used))

        async def expire() -> None:
            await self._sleep(remaining)
            self._limit = limit
            self._stop(by)

        return asyncio.create_task(expire(), name=f"limit-{self._workload.name}")

    def _stop(self, by: StoppedBy) -> None:
        if self._stopped_by is None:
            self._stopped_by = by
            self._stopping = asyncio.create_task(self._stop_until_confirmed(), name="stop")

    async def _stop_until_confirmed(self) -> None:
        backoff = Backoff()
        while True:
            try:
                return await self._runner.stop(self._workload, self._limits.grace)
            except LaunchError as error:
                structlog.get_logger().warning("stopping failed; will be retried", error=str(error))
                await self._sleep(backoff.pause())

    async def _find_again(self, lost: JobError) -> Workload:
        """Wait for the engine; return the workload, which must not have ended."""
        waited, pause = 0.0, 0.5
        while waited < self._limits.engine:
            try:
                found = await self._runner.find(self._workload.name)
            except JobError:
                await self._sleep(pause)
                waited += pause
                continue
            if found is None:
                raise JobError(Cause.LOST_ENGINE, f"{lost.message} The workload no longer exists.")
            if found.state in {WorkloadState.RUNNING, WorkloadState.PENDING}:
                return found
            # An engine that stops ends its jobs; their exit codes mean nothing then.
            code = found.ending.exit_code if found.ending else None
            message = f"{lost.message} The job had ended when it came back (exit code {code})."
            raise JobError(Cause.LOST_ENGINE, message)
        raise lost
