"""The only writer of one attempt's progress, logs and outcome."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from agent.model.errors import FencedError, LaunchError
from agent.model.phase import Outcome, Phase
from agent.model.protocol import LeaseStatus
from agent.model.redact import Redactor
from agent.model.work import Lease
from agent.pipeline.cancellation import (
    CANCEL_REASONS,
    WHILE_PERMITTING,
    WHILE_REPORTING,
    Cancellation,
)
from agent.pipeline.logs import JobLog, LogSender, SetupLog
from agent.pipeline.until_answered import retry_until_answered
from agent.ports.journal import AttemptJournal
from agent.ports.queue import Channel, QueuePort
from agent.ports.runner import RunnerPort
from agent.system.backoff import Sleep
from agent.system.tasks import cancel_task

#: Seconds that progress waits for more, to be sent in one call. The stages of a job whose
#: image exists take less, so that its preparation costs no call of its own.
_BATCH_DELAY: Final = 0.1
#: Seconds that an agent that shuts down waits for an outcome that is being sent.
_DETACH_DELAY: Final = 1.0


@dataclass(slots=True)
class _Progress:
    """Progress that was not sent yet; newer facts replace older ones."""

    phase: Phase | None = None
    activity: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def merge(self, newer: "_Progress") -> None:
        self.phase = newer.phase or self.phase
        self.activity = newer.activity or self.activity
        self.facts |= newer.facts
        self.warnings += newer.warnings

    def __bool__(self) -> bool:
        return bool(self.phase or self.activity or self.facts or self.warnings)


class Report:
    """Reports one attempt to the control plane.

    Progress (`note`) is batched and sent by a task of its own, so that no stage waits for it;
    `permit` and `finish` are waited for. While the control plane is unreachable all of them
    wait, and none fails. STOP and FENCED in its answers go to the attempt's cancellation.
    """

    def __init__(
        self,
        queue: QueuePort,
        lease: Lease,
        cancellation: Cancellation,
        journal: AttemptJournal,
        redactor: Redactor,
        sleep: Sleep,
    ) -> None:
        self._queue = queue
        self._lease = lease
        self._cancellation = cancellation
        self._journal = journal
        #: Knows the attempt's secrets; no text or log is sent that has one of them.
        self.redactor = redactor
        self._sleep = sleep
        self._setup_sender = self._log_sender("setup")
        self._job_sender: LogSender | None = None
        self._job_log: JobLog | None = None
        self._unsent = _Progress()
        self._facts: dict[str, Any] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sender: asyncio.Task[None] | None = None
        self._finishing = False
        #: Log of resolve and build.
        self.setup = SetupLog(self._setup_sender, redactor)

    def note(
        self,
        *,
        phase: Phase | None = None,
        activity: str | None = None,
        facts: dict[str, Any] | None = None,
        warning: str | None = None,
    ) -> None:
        """Add progress, to be sent soon."""
        activity, warning = self._clean(activity), self._clean(warning)
        facts = {name: self._clean(value) for name, value in (facts or {}).items()}
        self._facts |= facts
        self._unsent.merge(_Progress(phase, activity, dict(facts), [warning] if warning else []))
        self._idle.clear()
        self._wake.set()
        if self._sender is None or self._sender.done():
            name = f"report-{self._lease.item_id}"
            self._sender = asyncio.create_task(self._send_all(), name=name)

    async def permit(self) -> LeaseStatus:
        """Request the start permit until there is an answer.

        Raises:
            AttemptCancelledError: no answer came before the cancellation.
        """
        asked = retry_until_answered(
            lambda: self._queue.permit(self._lease), "start permit", self._sleep
        )
        answer = await self._cancellation.guard(asked, WHILE_PERMITTING)
        # The permit implies PREPARING, which would be refused from now on.
        if self._unsent.phase is Phase.PREPARING:
            self._unsent.phase = None
        return answer

    def new_job_log(self, runner: RunnerPort) -> JobLog:
        """The job's log; the caller begins it."""
        sender = self._log_sender("job")
        log = JobLog(
            runner, self._lease, sender, self._journal, self.redactor,
            lambda warning: self.note(warning=warning), self._sleep,
        )  # fmt: skip
        self._job_sender, self._job_log = sender, log
        return log

    async def finish(self, outcome: Outcome, log_stall: float) -> LeaseStatus:
        """Send all log bytes, then the outcome, until it is answered.

        Raises:
            AttemptCancelledError: detached or fenced before the answer came.
            LaunchError: the control plane refuses it for good.
        """
        outcome = replace(outcome, message=self.redactor.text(outcome.message))
        try:
            await self._journal.outcome_known(self._lease, outcome)
        except LaunchError as error:
            # A full disk must not prevent the report.
            structlog.get_logger().error("the outcome is not in the journal", error=str(error))
        finishing = self._finish(outcome, log_stall)
        return await self._cancellation.guard(
            finishing, WHILE_REPORTING, detach_delay=_DETACH_DELAY
        )

    async def _finish(self, outcome: Outcome, log_stall: float) -> LeaseStatus:
        self._finishing = True
        self._wake.set()
        await self._idle.wait()
        if not await self.setup.finished(log_stall):
            self._note_missing("the setup log", self._setup_sender)
        if self._job_log is not None and not await self._job_log.finished(log_stall):
            self._note_missing("the job's log", self._job_sender)
        await self._idle.wait()
        return await retry_until_answered(
            lambda: self._queue.finish(self._lease, outcome, self._facts),
            "outcome",
            self._sleep,
        )

    def _note_missing(self, what: str, sender: LogSender | None) -> None:
        why = (sender.refusal if sender else None) or "The log did not end."
        structlog.get_logger().warning("the end of a log is missing", log=what, why=why)
        self.note(warning=f"The end of {what} is missing. {why}")

    def _clean(self, value: Any) -> Any:
        match value:
            case str():
                return self.redactor.text(value)
            case dict():
                return {name: self._clean(inner) for name, inner in value.items()}
            case list() | tuple():
                return [self._clean(inner) for inner in value]
            case _:
                return value

    async def close(self) -> None:
        """Stop all tasks; nothing more is sent. May be called twice."""
        if self._job_log is not None:
            await self._job_log.close()
        for sender in (self._job_sender, self._setup_sender):
            if sender is not None:
                await sender.close()
        sending, self._sender = self._sender, None
        await cancel_task(sending)

    async def _send_all(self) -> None:
        try:
            while self._unsent:
                if self._unsent.phase is not Phase.STARTED:
                    await self._wait_for_more()
                progress, self._unsent = self._unsent, _Progress()
                if progress:
                    await self._send(progress)
        finally:
            self._idle.set()

    async def _wait_for_more(self) -> None:
        """Delay the call, but not once STARTED is to be reported: users watch for that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BATCH_DELAY):
                while self._unsent.phase is not Phase.STARTED and not self._finishing:
                    self._wake.clear()
                    await self._wake.wait()

    async def _send(self, progress: _Progress) -> None:
        warning = " ".join(progress.warnings) or None
        try:
            status = await retry_until_answered(
                lambda: self._queue.advance(
                    self._lease,
                    phase=progress.phase,
                    activity=progress.activity,
                    facts=progress.facts or None,
                    warning=warning,
                ),
                "progress",
                self._sleep,
            )
        except FencedError:
            status = LeaseStatus.FENCED
        except LaunchError as error:
            # Refused progress is dropped; only the outcome must arrive.
            structlog.get_logger().warning("progress was refused", error=str(error))
            return
        self.apply(status)

    def apply(self, status: LeaseStatus) -> None:
        """Pass a STOP or FENCED answer on as a cancellation."""
        reason = CANCEL_REASONS.get(status)
        if reason is not None:
            self._cancellation.send(reason)

    def _log_sender(self, channel: Channel) -> LogSender:
        # Nothing is stored before an item's first lease; later ones have to ask.
        first = 0 if self._lease.epoch == 1 else None
        return LogSender(
            self._queue, self._lease, channel, self._cancellation, start=first, sleep=self._sleep
        )
