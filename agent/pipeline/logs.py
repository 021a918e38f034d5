"""Logs of one attempt, sent to the control plane by offset, in batches, with bounded memory."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

import structlog

from agent.model.cause import Cause
from agent.model.errors import (
    FencedError,
    JobError,
    LaunchError,
    LogFullError,
    UnreachableError,
)
from agent.model.redact import Redactor, StreamRedactor
from agent.model.units import format_size
from agent.model.work import Lease
from agent.pipeline.cancellation import Cancellation, CancelReason
from agent.ports.journal import AttemptJournal
from agent.ports.queue import Channel, QueuePort
from agent.ports.runner import (
    LOG_START,
    MAYBE_MISSING,
    UNKNOWN_MISSING,
    LogPiece,
    LogPosition,
    RunnerPort,
    Workload,
)
from agent.system.backoff import Backoff, Sleep
from agent.system.tasks import cancel_task

#: Most bytes in the buffer; a writer waits while it is full.
BUFFER_SIZE: Final = 1024 * 1024
#: Most bytes in one call.
BATCH_SIZE: Final = 256 * 1024
#: Seconds that the first byte of a batch waits for more.
BATCH_DELAY: Final = 0.1


class LogLostError(Exception):
    """The server lost bytes that it had acknowledged: send again from `end`."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class LogSender:
    """Sends the bytes of one channel; one writer.

    Invariant: the buffer holds the bytes from `acknowledged` on; `end` is where the writer goes
    on. While the control plane is unreachable the buffer fills up and the writer waits, so that
    memory is bounded and no byte is lost.

    `start` is how many bytes are stored already; `None` asks the control plane first.
    """

    def __init__(
        self,
        queue: QueuePort,
        lease: Lease,
        channel: Channel,
        cancellation: Cancellation,
        *,
        start: int | None,
        sleep: Sleep,
    ) -> None:
        self._queue = queue
        self._lease = lease
        self._channel = channel
        self._cancellation = cancellation
        self._sleep = sleep
        self._start = start
        #: How many bytes the control plane has acknowledged.
        self.acknowledged = start or 0
        self._buffer = bytearray()
        self._rewound = False
        self._fenced = False
        #: The control plane stores no more of this log.
        self.full: LogFullError | None = None
        self._closing = False
        #: The control plane does not answer.
        self.unreachable = False
        #: Its answer while it stores no bytes, for example with a full disk.
        self.refusal: str | None = None
        #: Set by the writer, and by the sender.
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def end(self) -> int:
        """Offset of the next byte to be written."""
        return self.acknowledged + len(self._buffer)

    async def write(self, data: bytes) -> None:
        """Buffer bytes; waits while the buffer is full.

        Raises:
            LogLostError: write again from its `end` on.
            LogFullError: the control plane stores no more of this log.
        """
        view = memoryview(data)
        while view and not self._fenced:
            self._check()
            room = BUFFER_SIZE - len(self._buffer)
            if room <= 0:
                await self._wait_for_room()
                continue
            self._buffer += view[:room]
            view = view[room:]
            self._wake()

    async def flush(self) -> None:
        """Wait until everything is acknowledged.

        Raises:
            LogLostError: stored bytes were lost; write again.
            LogFullError: the control plane stores no more of this log.
        """
        self._closing = True
        try:
            while self._buffer and not self._fenced and self.full is None:
                self._wake()
                await self._wait_for_room()
            self._check()
        finally:
            self._closing = False

    async def close(self) -> None:
        """Stop the sender; what is not sent is dropped. May be called twice."""
        task, self._task = self._task, None
        await cancel_task(task)

    def _wake(self) -> None:
        if self._task is None:
            name = f"send-{self._channel}-{self._lease.item_id}"
            self._task = asyncio.create_task(self._send_all(), name=name)
        self._filled.set()

    async def _wait_for_room(self) -> None:
        self._emptied.clear()
        await self._emptied.wait()

    def _check(self) -> None:
        if self.full is not None:
            raise self.full
        if self._rewound:
            self._rewound = False
            raise LogLostError(self.acknowledged)

    async def _send_all(self) -> None:
        backoff = Backoff()
        while not self._fenced:
            await self._collect_batch()
            try:
                await self.find_end()
                batch = bytes(self._buffer[:BATCH_SIZE])
                end = await self._queue.append_log(
                    self._lease, self._channel, self.acknowledged, batch
                )
            except FencedError:
                self._fenced = True
                self._cancellation.send(CancelReason.FENCED)
            except LogFullError as error:
                structlog.get_logger().warning("the rest of a log is dropped", error=str(error))
                self._buffer.clear()
                self.full, self.refusal = error, error.message
                self._emptied.set()
                return
            except LaunchError as error:
                # Keep the bytes and retry, whatever the error: an attempt that the server does
                # not know any more is fenced by its next renewal.
                self._note_failure(error)
                await self._sleep(backoff.pause())
                continue
            else:
                self._acknowledge(end, len(batch))
                backoff.reset()
            self.unreachable, self.refusal = False, None
            self._emptied.set()

    async def _collect_batch(self) -> None:
        """Wait for a first byte, then for more, unless the batch is full or a flush waits."""
        while not self._buffer:
            self._filled.clear()
            await self._filled.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(BATCH_DELAY):
                while not self._closing and len(self._buffer) < BATCH_SIZE:
                    self._filled.clear()
                    await self._filled.wait()

    async def find_end(self) -> None:
        """Ask how many bytes are stored, so that `end` is right.

        Raises:
            LaunchError: the control plane did not answer.
        """
        if self._start is None:
            self._start = await self._queue.log_end(self._lease, self._channel)
            self.acknowledged = self._start

    def _note_failure(self, error: LaunchError) -> None:
        if not self.unreachable and self.refusal is None:
            structlog.get_logger().warning(
                "log bytes are not stored; will be retried", error=str(error)
            )
        self.unreachable = isinstance(error, UnreachableError)
        self.refusal = None if self.unreachable else error.message

    def _acknowledge(self, end: int, sent: int) -> None:
        if end < self.acknowledged:
            self._buffer.clear()
            self._rewound = True
        else:
            # Never more than was sent: what was written in the meantime is not stored yet.
            del self._buffer[: min(end - self.acknowledged, sent)]
        self.acknowledged = end


async def _wait_while_progressing(
    task: asyncio.Future[None], sender: LogSender, stall: float
) -> bool:
    """Wait for a task that needs a sender; false when nothing was stored for `stall` seconds.

    An unreachable control plane is waited for, since the outcome cannot reach it either; one
    that answers and stores nothing must not delay the outcome.
    """
    while not task.done():
        before = sender.acknowledged
        await asyncio.wait({task}, timeout=stall)
        moved = sender.acknowledged != before or sender.unreachable
        if not task.done() and not moved:
            return False
    return True


class SetupLog:
    """`LogSink` of resolve and build: never raises; lost bytes are replaced by a note."""

    def __init__(self, sender: LogSender, redactor: Redactor) -> None:
        self._sender = sender
        self._masked = redactor.stream()

    async def write(self, data: bytes) -> None:
        """Send bytes without secrets; waits while the buffer is full."""
        await self._write(self._masked.feed(data))

    async def _write(self, masked: bytes) -> None:
        with suppress(LogFullError):
            try:
                await self._sender.write(masked)
            except LogLostError:
                lost = b"launch: an earlier part of this log was lost\n"
                await self._sender.write(lost + masked)

    async def finished(self, stall: float) -> bool:
        """Wait until everything is stored; false when nothing was stored for `stall` seconds.

        Also false when the control plane stores no more of it.
        """
        flushing = asyncio.create_task(self._flush(), name="flush-setup")
        try:
            ended = await _wait_while_progressing(flushing, self._sender, stall)
        finally:
            await cancel_task(flushing)
        return ended and self._sender.full is None

    async def _flush(self) -> None:
        await self._write(self._masked.flush())
        with suppress(LogLostError, LogFullError):
            await self._sender.flush()


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The position in the runner's log that follows the first `stored` bytes of the stored log.

    Our lines replace bytes that the backend dropped, so the two lengths differ.
    """

    stored: int = 0
    position: LogPosition = LOG_START

    def position_at(self, stored: int) -> LogPosition:
        """Where to go on when so many bytes are stored."""
        return self.position.after(stored - self.stored)

    def to_text(self) -> str:
        """For the journal."""
        return f"{self.stored}@{self.position.to_text()}"

    @classmethod
    def from_text(cls, text: str) -> "ResumePoint":
        """The inverse of `to_text`; the beginning for an empty text."""
        if not text:
            return cls()
        stored, _, position = text.partition("@")
        return cls(int(stored), LogPosition.from_text(position))


FROM_START: Final = ResumePoint()


class JobLog:
    """The job's own output, from its first to its last byte.

    The backend keeps it and it can be read again from any position, so nothing is buffered
    here beyond a sender's buffer: while the control plane is unreachable, reading waits; when the
    stream breaks, or the control plane has lost bytes, reading begins again at what is stored.

    Secrets are masked by as many bytes, so that offsets in the stored log and in the backend's
    log stay the same. Where reading begins again, it begins earlier by the length of a secret,
    and what is stored already is not sent again: a secret that lies across that position is
    seen whole.
    """

    def __init__(
        self,
        runner: RunnerPort,
        lease: Lease,
        sender: LogSender,
        journal: AttemptJournal,
        redactor: Redactor,
        warn: Callable[[str], None],
        sleep: Sleep,
    ) -> None:
        self._runner = runner
        self._lease = lease
        self._sender = sender
        self._journal = journal
        self._redactor = redactor
        self._warn = warn
        self._warned = False
        self._sleep = sleep
        self._masked: StreamRedactor = redactor.stream()
        #: How many of the next bytes are stored already.
        self._stored = 0
        self._resume = FROM_START
        self._task: asyncio.Task[None] | None = None

    def begin(self, workload: Workload, resume: ResumePoint = FROM_START) -> None:
        """Follow from what the control plane has stored."""
        self._resume = resume
        name = f"log-{self._lease.item_id}"
        self._task = asyncio.create_task(self._follow(workload), name=name)

    async def finished(self, stall: float) -> bool:
        """Wait until the whole log is stored; false when nothing was stored for `stall` seconds.

        Either the runner's stream did not end, or the control plane answers and stores nothing.
        Also false when the control plane stores no more of this log.
        """
        if self._task is None:
            return True
        ended = await _wait_while_progressing(self._task, self._sender, stall)
        return ended and self._sender.full is None

    async def close(self) -> None:
        """Stop following; the backend keeps what was not read. May be called twice."""
        task, self._task = self._task, None
        await cancel_task(task)

    async def _follow(self, workload: Workload) -> None:
        backoff = Backoff()
        logged = ""
        while True:
            try:
                await self._read_all(workload)
            except LogLostError as error:
                structlog.get_logger().warning(
                    "the control plane lost log bytes; sending them again", end=error.end
                )
            except LogFullError:
                return
            except (LaunchError, OSError) as error:
                if str(error) != logged:
                    structlog.get_logger().warning(
                        "reading the job's log failed; will be retried", error=str(error)
                    )
                logged = str(error)
                await self._sleep(backoff.pause())
            else:
                return

    async def _read_all(self, workload: Workload) -> None:
        """Until everything is stored; a workload that vanished has no more."""
        await self._sender.find_end()
        begin = max(self._resume.stored, self._sender.end - self._redactor.longest)
        self._masked, self._stored = self._redactor.stream(), self._sender.end - begin
        position = self._resume.position_at(begin)
        try:
            async with aclosing(self._runner.logs(workload, position)) as pieces:
                async for piece in pieces:
                    await self._take(piece)
        except JobError as error:
            if error.cause is not Cause.LOST_WORKLOAD:
                raise
            structlog.get_logger().warning("the rest of the job's log is gone", error=str(error))
        await self._write(self._masked.flush())
        await self._sender.flush()

    async def _take(self, piece: LogPiece) -> None:
        if piece.missing:
            await self._write(self._masked.flush())
        text = self._pass_over(piece.missing)
        if text:
            await self._sender.write(f"\nlaunch: {text}; the backend has no more\n".encode())
            if not self._warned:
                self._warned = True
                self._warn("The job's log is not whole; it says where something may be missing.")
        marked = piece.position.mark != self._resume.position.mark
        # Everything before the piece has to be sent: nothing is held back, nothing is skipped.
        if text or (marked and not self._masked.holds_back and not self._stored):
            # Only what is stored may be left behind: a later process goes on from here.
            await self._sender.flush()
            self._resume = ResumePoint(self._sender.end, piece.position)
            self._journal.log_resumes(self._lease, self._resume.to_text())
        await self._write(self._masked.feed(piece.data))

    def _pass_over(self, missing: int) -> str:
        """What the log says about a gap; empty if there is none, or if all of it is stored."""
        if missing == MAYBE_MISSING:
            return "output may be missing here"
        if missing == UNKNOWN_MISSING:
            # What follows may be new from its first byte on.
            self._stored = 0
            return "output is missing here"
        unstored = max(0, missing - self._stored)
        self._stored = max(0, self._stored - missing)
        return f"{format_size(unstored)} of output are missing here" if unstored else ""

    async def _write(self, masked: bytes) -> None:
        """Send what is not stored yet."""
        new = masked[self._stored :]
        self._stored -= len(masked) - len(new)
        await self._sender.write(new)
