"""One attempt in order: resolve, build, create, permit, start, watch, report."""

import asyncio
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

import structlog

from agent.model.errors import FencedError, LaunchError
from agent.model.phase import UNSTARTED_HELD, Lost, Outcome, Phase, Stopped
from agent.model.protocol import LeaseStatus
from agent.pipeline.build import BuildFindings
from agent.pipeline.cancellation import ANY, AttemptCancelledError, CancelReason
from agent.pipeline.dependencies import AttemptContext
from agent.pipeline.logs import FROM_START, ResumePoint
from agent.pipeline.outcome import is_expected, outcome_of_failure
from agent.pipeline.release_rules import ReleaseReason, release_reason
from agent.pipeline.resolve import resolve
from agent.pipeline.start import create, permit_and_start, settle
from agent.pipeline.until_answered import retry_until_answered
from agent.pipeline.watch import watch
from agent.ports.log import write_line
from agent.ports.runner import Workload

#: Seconds. An item that cannot be released in time is queued again when its lease expires.
_RELEASE_TIMEOUT: Final = 5.0
#: Seconds that the log of a job that is lost or released may delay the report of that.
_LOST_LOG_STALL: Final = 2.0
#: A requested stop is left to the control plane, which applies it when it gets the item back.
_WHILE_RELEASING: Final = ANY - {CancelReason.STOP}


@dataclass(frozen=True, slots=True)
class Prepare:
    """Begin with resolving."""


@dataclass(frozen=True, slots=True)
class Start:
    """Created and never started: obtain the permit, then start it."""

    workload: Workload


@dataclass(frozen=True, slots=True)
class Settle:
    """An earlier process may have sent a start, and the backend shows none."""

    workload: Workload


@dataclass(frozen=True, slots=True)
class Follow:
    """Started by an earlier process; it may have ended by now."""

    workload: Workload
    resume: ResumePoint = FROM_START


@dataclass(frozen=True, slots=True)
class Deliver:
    """The outcome is known and not acknowledged yet."""

    outcome: Outcome
    workload: Workload | None = None
    resume: ResumePoint = FROM_START


#: Where an attempt begins: a new one with `Prepare`, an adopted one with what recovery found.
FirstStage = Prepare | Start | Settle | Follow | Deliver


async def run_attempt(context: AttemptContext, first: FirstStage) -> ReleaseReason | None:
    """Run one attempt until its outcome is acknowledged, or until it is cancelled.

    Returns the reason for which its item was released to its queue, if it was. Never raises for
    what happens to the job. If the task is cancelled, a started workload goes on running.
    """
    attempt = _Attempt(context)
    bound = structlog.contextvars.bound_contextvars(
        item=context.lease.item_id,
        attempt=context.lease.attempt,
        queue=context.claim.queue,
    )
    with bound:
        try:
            return await attempt.run(first)
        finally:
            context.free_allocation()
            context.mark_prepared()
            await context.report.close()


class _Attempt:
    """The state of one attempt: what was created, and whether it may have run."""

    def __init__(self, context: AttemptContext) -> None:
        self._context = context
        self._workload: Workload | None = None
        #: Set before the permit is asked for: from then on it may run.
        self._may_run = False

    async def run(self, first: FirstStage) -> ReleaseReason | None:
        outcome: Outcome | None
        try:
            outcome = await self._run_stages(first)
        except AttemptCancelledError as cancelled:
            outcome = await self._end_cancelled(cancelled.reason)
        except FencedError:
            outcome = await self._end_cancelled(CancelReason.FENCED)
        except Exception as error:  # noqa: BLE001 -- every failure ends as an outcome
            if (reason := await self._release_reason(error)) is not None:
                await self._release_item(reason)
                return reason
            reference = uuid.uuid4().hex[:8]
            if not is_expected(error):
                structlog.get_logger().error(
                    "the attempt failed in the agent", reference=reference, exc_info=error
                )
            outcome = outcome_of_failure(error, reference)
        if outcome is not None:
            self._context.free_allocation()
            await self._report_outcome(outcome)
        return None

    async def _run_stages(self, first: FirstStage) -> Outcome:
        match first:
            case Prepare():
                self._workload = await self._prepare()
                return await self._start_and_watch(self._workload)
            case Start(workload=workload):
                self._workload = workload
                await self._context.dependencies.journal.reopened(self._context.lease)
                return await self._start_and_watch(workload)
            case Settle(workload=workload):
                self._workload, self._may_run = workload, True
                await self._restore_permit()
                return await self._watch_started(await settle(self._context, workload))
            case Follow(workload=workload, resume=resume):
                self._workload, self._may_run = workload, True
                await self._restore_permit()
                return await watch(self._context, workload, resume)
            case Deliver(outcome=outcome, workload=workload, resume=resume):
                self._workload, self._may_run = workload, True
                if workload is not None:
                    self._context.report.new_job_log(self._context.backend.runner).begin(
                        workload, resume
                    )
                return outcome
            case _:
                assert_never(first)

    async def _prepare(self) -> Workload:
        context, dependencies = self._context, self._context.dependencies
        # Early, so that it is on disk already when the intent to start has to be written.
        dependencies.journal.opened(context.lease)
        context.report.note(phase=Phase.PREPARING, activity="fetching the source")
        await dependencies.run_blocking(_fresh, context.folder)
        resolved = await context.cancellation.guard(
            resolve(
                context.claim, context.backend, dependencies, context.folder, context.report.setup
            )
        )
        context.report.note(activity="preparing the image", facts=dict(resolved.facts))
        findings, backend = BuildFindings(context.report.setup), context.backend
        image = await context.cancellation.guard(
            dependencies.builds.image(
                resolved, backend.builder, backend.images, findings, backend.puller
            )
        )
        for warning in filter(None, (*image.warnings, findings.warning)):
            context.report.note(warning=warning)
        return await create(context, resolved, image)

    async def _start_and_watch(self, workload: Workload) -> Outcome:
        self._context.cancellation.check()
        self._may_run = True
        return await self._watch_started(await permit_and_start(self._context, workload))

    async def _watch_started(self, started: Workload | Outcome) -> Outcome:
        if not isinstance(started, Workload):
            return started
        self._workload = started
        self._context.mark_prepared()
        self._context.dependencies.backend_state.worked(self._context.claim.resource)
        return await watch(self._context, started)

    async def _restore_permit(self) -> None:
        """Obtain a permit that the control plane has lost (restored from a backup).

        The control plane accepts no outcome without a permit. Its answer changes nothing here: a
        start was sent.
        """
        if self._context.claim.phase in UNSTARTED_HELD:
            self._context.report.apply(await self._context.report.permit())

    async def _end_cancelled(self, reason: CancelReason) -> Outcome | None:
        """End without an outcome, unless it is to be stopped."""
        if reason is CancelReason.FENCED:
            structlog.get_logger().warning("the lease is lost: another agent may hold the item")
            self._context.dependencies.journal.closed(self._context.lease)
            return None
        if self._may_run:
            structlog.get_logger().info(
                "detached: the job goes on, and the next process of this agent adopts it"
            )
            return None
        if reason is CancelReason.STOP:
            return Stopped("stopped on request before it started")
        await self._release_at_shutdown()
        return None

    async def _release_reason(self, error: Exception) -> ReleaseReason | None:
        context = self._context
        if self._may_run:
            return None
        state = context.dependencies.backend_state
        return await release_reason(error, context.claim.resource, state, context.releases)

    async def _release_item(self, reason: ReleaseReason) -> None:
        """Release the item to its queue, and tell the claim loop if the backend failed."""
        context = self._context
        log = structlog.get_logger()
        log.warning("the item is released to its queue", reason=reason.message)
        if reason.backend is not None:
            context.dependencies.backend_state.failed(context.claim.resource, reason.backend)
        try:
            await context.cancellation.guard(
                self._clean_up_and_release(reason), _WHILE_RELEASING, detach_delay=_RELEASE_TIMEOUT
            )
        except (AttemptCancelledError, FencedError):
            log.info("the item was not released: its lease expires, or is lost already")
        except LaunchError as error:
            log.warning("not released; its lease will expire", error=str(error))
        context.dependencies.journal.closed(context.lease)

    async def _clean_up_and_release(self, reason: ReleaseReason) -> None:
        context, queue = self._context, self._context.dependencies.queue
        await self._destroy()
        await self._remove_folder()
        await write_line(context.report.setup, f"released to its queue: {reason.message}")
        # After the release, nothing more is accepted.
        await context.report.setup.finished(_LOST_LOG_STALL)
        await retry_until_answered(
            lambda: queue.release(context.lease, reason.message, context.releases.delay),
            "release of an item",
            context.dependencies.sleep,
        )

    async def _release_at_shutdown(self) -> None:
        context = self._context
        # The workload is removed first: once the item is released, another agent may create one
        # of the same name on the same engine.
        await self._destroy()
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await context.dependencies.queue.release(context.lease, "the agent shuts down")
        except (LaunchError, TimeoutError) as error:
            structlog.get_logger().warning("not released; its lease will expire", error=str(error))
        context.dependencies.journal.closed(context.lease)
        await self._remove_folder()

    async def _report_outcome(self, outcome: Outcome) -> None:
        """Report, then remove: nothing is removed until the outcome is acknowledged."""
        context = self._context
        log = structlog.get_logger().bind(cause=outcome.cause)
        context.dependencies.observe(outcome)
        log.info("attempt ended", outcome=type(outcome).__name__, message=outcome.message)
        stall = context.dependencies.limits.log_stall
        if isinstance(outcome, Lost):  # its log is usually gone
            stall = min(stall, _LOST_LOG_STALL)
        try:
            answer = await context.report.finish(outcome, stall)
        except AttemptCancelledError as cancelled:
            if cancelled.reason is CancelReason.FENCED:
                context.dependencies.journal.closed(context.lease)
            return
        except FencedError:
            answer = LeaseStatus.FENCED
        except LaunchError as error:
            log.warning("the outcome was refused; the workload is kept", error=str(error))
            return
        if answer is LeaseStatus.FENCED:
            context.dependencies.journal.closed(context.lease)
            return
        context.dependencies.journal.closed(context.lease)
        await context.report.close()
        await self._destroy()
        await self._remove_folder()

    async def _destroy(self) -> None:
        if self._workload is None:
            return
        try:
            await self._context.backend.runner.destroy(self._workload)
        except LaunchError as error:
            structlog.get_logger().warning("not removed; pruning will try again", error=str(error))

    async def _remove_folder(self) -> None:
        await self._context.dependencies.run_blocking(
            shutil.rmtree, self._context.folder, ignore_errors=True
        )


def _fresh(folder: Path) -> None:
    """Make an empty folder; what an earlier process left in it was never started."""
    shutil.rmtree(folder, ignore_errors=True)
    # Other users, such as the user of a process job, may pass through it but not list it.
    folder.mkdir(parents=True, mode=0o711)
