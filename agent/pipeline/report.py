"""Sole writer of one attempt's status and logs."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from agent.model.errors import FencedError, LaunchError
from agent.model.outcome import Outcome
from agent.model.phase import Phase
from agent.model.protocol import LeaseStatus
from agent.model.work import Lease
from agent.pipeline.cancellation import (
    CANCEL_REASONS,
    WHILE_CONCLUDING,
    WHILE_PERMITTING,
    Cancellation,
    cancel_task,
)
from agent.pipeline.logs import JobLog, SetupLog, Shipper
from agent.pipeline.retry import Sleep, retry_until_answered
from agent.ports.journal import AttemptJournal
from agent.ports.queue import Channel, QueuePort
from agent.ports.runner import RunnerPort

#: Seconds that progress waits for more of it. Stages of a job whose image is there take
#: less, so that its whole preparation costs no call at all.
_LINGER: Final = 0.1
#: Seconds that an agent which leaves still gives to an outcome that is on its way.
_LAST_CALLS: Final = 1.0


@dataclass(slots=True)
class _News:
    """Progress that was not sent yet; newer facts replace older ones."""

    phase: Phase | None = None
    activity: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def absorb(self, newer: "_News") -> None:
        self.phase = newer.phase or self.phase
        self.activity = newer.activity or self.activity
        self.facts |= newer.facts
        self.warnings += newer.warnings

    def __bool__(self) -> bool:
        return bool(self.phase or self.activity or self.facts or self.warnings)


class Report:
    """What one attempt tells the control plane.

    Progress (`note`) is collected and sent by a task of its own, so that no stage waits for
    it; `permit` and `finish` are waited for. A far end that is away delays all of them and
    fails none. Answers that concern the attempt (stop, fenced) reach it as cancellation.
    """

    def __init__(
        self,
        queue: QueuePort,
        lease: Lease,
        cancellation: Cancellation,
        journal: AttemptJournal,
        sleep: Sleep,
    ) -> None:
        self._queue = queue
        self._lease = lease
        self._cancellation = cancellation
        self._journal = journal
        self._sleep = sleep
        self._setup_shipper = self._shipper("setup")
        self._job_shipper: Shipper | None = None
        self._job_log: JobLog | None = None
        self._news = _News()
        self._facts: dict[str, Any] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sender: asyncio.Task[None] | None = None
        self._finishing = False
        #: Log of resolve and build.
        self.setup = SetupLog(self._setup_shipper)

    def note(
        self,
        *,
        phase: Phase | None = None,
        activity: str | None = None,
        facts: dict[str, Any] | None = None,
        warning: str | None = None,
    ) -> None:
        """Tell progress, some time soon."""
        self._facts |= facts or {}
        self._news.absorb(_News(phase, activity, dict(facts or {}), [warning] if warning else []))
        self._idle.clear()
        self._wake.set()
        if self._sender is None or self._sender.done():
            name = f"report-{self._lease.item_id}"
            self._sender = asyncio.create_task(self._send_news(), name=name)

    async def permit(self) -> LeaseStatus:
        """Ask for the start permit until it is answered.

        Raises:
            AttemptCancelledError: the answer is not known and will not be waited for.
        """
        asked = retry_until_answered(
            lambda: self._queue.permit(self._lease), "start permit", self._sleep
        )
        answer = await self._cancellation.guard(asked, WHILE_PERMITTING)
        # The permit implies PREPARING; what is still unsent of it would now be refused.
        if self._news.phase is Phase.PREPARING:
            self._news.phase = None
        return answer

    def follow(self, runner: RunnerPort) -> JobLog:
        """The job's log, to be begun by the caller."""
        shipper = self._shipper("job")
        log = JobLog(runner, self._lease, shipper, self._journal, self._sleep)
        self._job_shipper, self._job_log = shipper, log
        return log

    async def finish(self, outcome: Outcome, log_stall: float) -> LeaseStatus:
        """All log bytes, then the outcome, until it is answered.

        Raises:
            AttemptCancelledError: detached or fenced before the answer came.
            LaunchError: the far end will never take it.
        """
        try:
            await self._journal.concluded(self._lease, outcome, self._facts)
        except LaunchError as error:
            # A full disk must not keep the outcome from being told.
            structlog.get_logger().error("the outcome is not in the journal", error=str(error))
        finishing = self._finish(outcome, log_stall)
        return await self._cancellation.guard(finishing, WHILE_CONCLUDING, detach_delay=_LAST_CALLS)

    async def _finish(self, outcome: Outcome, log_stall: float) -> LeaseStatus:
        self._finishing = True
        self._wake.set()
        await self._idle.wait()
        if not await self.setup.finished(log_stall):
            self._note_missing("the log of the preparation", self._setup_shipper)
        if self._job_log is not None and not await self._job_log.finished(log_stall):
            self._note_missing("the job's log", self._job_shipper)
        await self._idle.wait()
        return await retry_until_answered(
            lambda: self._queue.finish(self._lease, outcome, self._facts),
            "outcome",
            self._sleep,
        )

    def _note_missing(self, what: str, shipper: Shipper | None) -> None:
        why = (shipper.refusal if shipper else None) or "It did not end."
        structlog.get_logger().warning("the end of a log is missing", log=what, why=why)
        self.note(warning=f"The end of {what} is missing. {why}")

    async def close(self) -> None:
        """End everything that runs here; nothing more is told. Legal twice."""
        if self._job_log is not None:
            await self._job_log.close()
        for shipper in (self._job_shipper, self._setup_shipper):
            if shipper is not None:
                await shipper.close()
        sender, self._sender = self._sender, None
        await cancel_task(sender)

    async def _send_news(self) -> None:
        try:
            while self._news:
                if self._news.phase is not Phase.STARTED:
                    await self._linger()
                news, self._news = self._news, _News()
                if news:
                    await self._send(news)
        finally:
            self._idle.set()

    async def _linger(self) -> None:
        """Wait for more, but not once the start was told: people look at that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while self._news.phase is not Phase.STARTED and not self._finishing:
                    self._wake.clear()
                    await self._wake.wait()

    async def _send(self, news: _News) -> None:
        warning = " ".join(news.warnings) or None
        try:
            answer = await retry_until_answered(
                lambda: self._queue.advance(
                    self._lease,
                    phase=news.phase,
                    activity=news.activity,
                    facts=news.facts or None,
                    warning=warning,
                ),
                "progress",
                self._sleep,
            )
        except FencedError:
            answer = LeaseStatus.FENCED
        except LaunchError as error:
            # Progress that the far end refuses is lost; the outcome is what counts.
            structlog.get_logger().warning("progress was refused", error=str(error))
            return
        self.obey(answer)

    def obey(self, answer: LeaseStatus) -> None:
        """Turn an answer into a reason."""
        reason = CANCEL_REASONS.get(answer)
        if reason is not None:
            self._cancellation.send(reason)

    def _shipper(self, channel: Channel) -> Shipper:
        # The first lease of an item finds nothing stored; a later one has to ask.
        first = 0 if self._lease.epoch == 1 else None
        return Shipper(
            self._queue, self._lease, channel, self._cancellation, start=first, sleep=self._sleep
        )
