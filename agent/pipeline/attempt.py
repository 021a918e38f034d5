"""The straight line of one attempt: resolve, build, create, permit, start, watch, report."""

import asyncio
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

import structlog

from agent.model.errors import FencedError, LaunchError
from agent.model.outcome import Lost, Outcome, Stopped
from agent.model.phase import UNSTARTED_HELD, Phase
from agent.model.protocol import LeaseStatus
from agent.pipeline.build import BuildFindings
from agent.pipeline.cancellation import AttemptCancelledError, CancelReason
from agent.pipeline.dependencies import AttemptContext
from agent.pipeline.logs import FROM_START, ResumePoint
from agent.pipeline.outcome import is_expected, outcome_of_failure
from agent.pipeline.resolve import resolve
from agent.pipeline.run import create, permit_and_start, watch
from agent.ports.runner import Workload

#: Seconds. An item that cannot be handed back in time returns when its lease lapses.
_HAND_BACK: Final = 5.0
_LOST_LOG: Final = 2.0


@dataclass(frozen=True, slots=True)
class Prepare:
    """From the start of the line."""


@dataclass(frozen=True, slots=True)
class Start:
    """Created and never started: obtain the permit, then start."""

    workload: Workload


@dataclass(frozen=True, slots=True)
class Follow:
    """Started by an earlier process, running or ended by now."""

    workload: Workload
    resume: ResumePoint = FROM_START


@dataclass(frozen=True, slots=True)
class Deliver:
    """The outcome is known and was not acknowledged."""

    outcome: Outcome
    workload: Workload | None = None
    resume: ResumePoint = FROM_START


Begin = Prepare | Start | Follow | Deliver


async def run_attempt(job: AttemptContext, begin: Begin) -> None:
    """One attempt to its acknowledged outcome, or to where it was cancelled.

    Never raises for what happens to the job. When cancelled it detaches: what runs goes on.
    """
    line = _Line(job)
    bound = structlog.contextvars.bound_contextvars(
        job=job.lease.item_id, attempt=job.lease.attempt, queue=job.claim.queue
    )
    with bound:
        try:
            await line.run(begin)
        finally:
            job.free()
            await job.report.close()


class _Line:
    """The line of one attempt; knows how far it came."""

    def __init__(self, job: AttemptContext) -> None:
        self._job = job
        self._workload: Workload | None = None
        #: Set before the permit is asked for: from then on it may run.
        self._may_run = False

    async def run(self, begin: Begin) -> None:
        """Go the line, then conclude."""
        outcome: Outcome | None
        try:
            outcome = await self._journey(begin)
        except AttemptCancelledError as cancelled:
            outcome = await self._leave(cancelled.reason)
        except FencedError:
            outcome = await self._leave(CancelReason.FENCED)
        except Exception as error:  # noqa: BLE001 -- whatever fails ends as an outcome
            outcome = self._failed(error)
        if outcome is not None:
            self._job.free()
            await self._conclude(outcome)

    async def _journey(self, begin: Begin) -> Outcome:
        match begin:
            case Prepare():
                self._workload = await self._prepare()
                return await self._start_and_watch(self._workload)
            case Start(workload=workload):
                self._workload = workload
                return await self._start_and_watch(workload)
            case Follow(workload=workload, resume=resume):
                self._workload, self._may_run = workload, True
                return await self._adopt(workload, resume)
            case Deliver(outcome=outcome, workload=workload, resume=resume):
                self._workload, self._may_run = workload, True
                if workload is not None:
                    self._job.report.follow(self._job.backend.runner).begin(workload, resume)
                return outcome
            case _:
                assert_never(begin)

    async def _prepare(self) -> Workload:
        job, dependencies, log = self._job, self._job.dependencies, self._job.report.setup
        # Early, so that the disk is done with it when the start's intent has to be written.
        dependencies.journal.opened(job.lease, job.name, job.claim.resource)
        job.report.note(phase=Phase.PREPARING, activity="fetching the source")
        await dependencies.in_thread(_fresh, job.folder)
        resolved = await job.cancellation.guard(
            resolve(job.claim, job.backend, dependencies, job.folder, log)
        )
        job.report.note(activity="preparing the image", facts=dict(resolved.facts))
        findings = BuildFindings(log)
        image = await job.cancellation.guard(
            dependencies.builds.image(resolved, job.backend.builder, job.backend.images, findings)
        )
        if findings.warning is not None:
            job.report.note(warning=findings.warning)
        return await create(job, resolved, image)

    async def _start_and_watch(self, workload: Workload) -> Outcome:
        self._job.cancellation.check()
        self._may_run = True
        started = await permit_and_start(self._job, workload)
        if not isinstance(started, Workload):
            return started
        self._workload = started
        return await watch(self._job, started)

    async def _adopt(self, workload: Workload, resume: ResumePoint) -> Outcome:
        if self._job.claim.phase in UNSTARTED_HELD:
            # The control plane forgot that it permitted this; it has to know before it
            # can take an outcome. The answer changes nothing: it has been started.
            answer = await self._job.report.permit()
            self._job.report.obey(answer)
        return await watch(self._job, workload, resume)

    async def _leave(self, cause: CancelReason) -> Outcome | None:
        """End without an outcome, except where a stop request wants one."""
        if cause is CancelReason.FENCED:
            structlog.get_logger().warning("somebody else owns the attempt; left alone")
            self._job.dependencies.journal.dropped(self._job.lease)
            return None
        if self._may_run:
            structlog.get_logger().info("detached; the next process of this agent adopts it")
            return None
        if cause is CancelReason.STOP:
            return Stopped("stopped on request before it started")
        await self._hand_back()
        return None

    async def _hand_back(self) -> None:
        job = self._job
        # The workload goes first: once the item is free, whoever gets it may create one of
        # the same name on the same engine.
        await self._destroy()
        try:
            async with asyncio.timeout(_HAND_BACK):
                await job.dependencies.queue.release(job.lease, "the agent leaves")
        except (LaunchError, TimeoutError) as error:
            structlog.get_logger().warning("not handed back; its lease lapses", error=str(error))
        job.dependencies.journal.dropped(job.lease)
        await self._remove_folder()

    async def _conclude(self, outcome: Outcome) -> None:
        """Report before reap: nothing is removed until the outcome is acknowledged."""
        job = self._job
        log = structlog.get_logger().bind(cause=outcome.cause)
        job.dependencies.observe(outcome)
        log.info("attempt ended", outcome=type(outcome).__name__, message=outcome.message)
        try:
            answer = await job.report.finish(outcome, self._log_stall(outcome))
        except AttemptCancelledError as cancelled:
            if cancelled.reason is CancelReason.FENCED:
                job.dependencies.journal.dropped(job.lease)
            return
        except FencedError:
            answer = LeaseStatus.FENCED
        except LaunchError as error:
            log.warning("the outcome was refused; its evidence stays", error=str(error))
            return
        if answer is LeaseStatus.FENCED:
            job.dependencies.journal.dropped(job.lease)
            return
        job.dependencies.journal.acknowledged(job.lease)
        await job.report.close()
        await self._destroy()
        await self._remove_folder()

    def _log_stall(self, outcome: Outcome) -> float:
        """What is lost has most likely taken its log along; the news does not wait for it."""
        stall = self._job.dependencies.limits.log_stall
        return min(stall, _LOST_LOG) if isinstance(outcome, Lost) else stall

    async def _destroy(self) -> None:
        if self._workload is None:
            return
        try:
            await self._job.backend.runner.destroy(self._workload)
        except LaunchError as error:
            structlog.get_logger().warning("not removed; will be swept", error=str(error))

    async def _remove_folder(self) -> None:
        await self._job.dependencies.in_thread(shutil.rmtree, self._job.folder, ignore_errors=True)

    def _failed(self, error: Exception) -> Outcome:
        reference = uuid.uuid4().hex[:8]
        if not is_expected(error):
            structlog.get_logger().error(
                "the attempt failed in the agent", reference=reference, exc_info=error
            )
        return outcome_of_failure(error, reference)


def _fresh(folder: Path) -> None:
    """An empty folder; what an earlier process left in it was never started."""
    shutil.rmtree(folder, ignore_errors=True)
    # Others may pass through, as a job of another user must, and may not look around.
    folder.mkdir(parents=True, mode=0o711)
