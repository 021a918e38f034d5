"""Bytes of one channel to the control plane: by offset, in batches, with bounded memory."""

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from agent.model.errors import FencedError, LaunchError, UnreachableError
from agent.model.work import Lease
from agent.pipeline.cancellation import Cancellation, CancelReason, cancel_task
from agent.pipeline.retry import Backoff, Sleep
from agent.ports.queue import Channel, QueuePort

#: Bytes that wait at most; a writer beyond that waits itself.
ROOM: Final = 1024 * 1024
#: Bytes in one call.
BATCH: Final = 256 * 1024
#: Seconds that the first byte of a batch waits for others.
LINGER: Final = 0.1


class RewoundError(Exception):
    """The far end has less than it acknowledged: write again from `end` on."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class Shipper:
    """One writer, one sender.

    Invariant: `base` is what the far end has acknowledged, and the buffer holds the bytes
    from there on; `end` is therefore where the writer goes on. While the far end is away
    the buffer fills up and the writer waits, so that memory is bounded and nothing is lost.

    `start` is what the far end has already; `None` asks it first.
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
        self._base = start or 0
        self._buffer = bytearray()
        self._rewound = False
        self._fenced = False
        self._closing = False
        #: Set while the far end does not answer.
        self.away = False
        #: StoppedBy it takes no bytes although it answers, as with a full disk.
        self.refusal: str | None = None
        #: Set by whoever changes what the sender waits for.
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def end(self) -> int:
        """Offset of the next byte to be written."""
        return self._base + len(self._buffer)

    @property
    def acknowledged(self) -> int:
        """Bytes that the far end has."""
        return self._base

    async def write(self, data: bytes) -> None:
        """Take bytes; waits while there is no room.

        Raises:
            RewoundError: write again from its `end` on.
        """
        view = memoryview(data)
        while view and not self._fenced:
            self._check_rewound()
            room = ROOM - len(self._buffer)
            if room <= 0:
                await self._room_again()
                continue
            self._buffer += view[:room]
            view = view[room:]
            self._wake()

    async def flush(self) -> None:
        """Wait until the far end has everything.

        Raises:
            RewoundError: it will never have it; write again.
        """
        self._closing = True
        try:
            while self._buffer and not self._fenced:
                self._wake()
                await self._room_again()
            self._check_rewound()
        finally:
            self._closing = False

    async def close(self) -> None:
        """End the sender; what is not sent is dropped. Legal twice."""
        task, self._task = self._task, None
        await cancel_task(task)

    def _wake(self) -> None:
        if self._task is None:
            name = f"ship-{self._channel}-{self._lease.item_id}"
            self._task = asyncio.create_task(self._send_all(), name=name)
        self._filled.set()

    async def _room_again(self) -> None:
        self._emptied.clear()
        await self._emptied.wait()

    def _check_rewound(self) -> None:
        if self._rewound:
            self._rewound = False
            raise RewoundError(self._base)

    async def _send_all(self) -> None:
        backoff = Backoff()
        while not self._fenced:
            await self._gathered()
            try:
                await self.ready()
                batch = bytes(self._buffer[:BATCH])
                end = await self._queue.append_log(self._lease, self._channel, self._base, batch)
            except FencedError:
                self._fenced = True
                self._cancellation.send(CancelReason.FENCED)
            except LaunchError as error:
                # Whatever it is, the bytes stay where they are until it has passed; an
                # attempt that the server forgot is fenced by its next renewal.
                self._say_stuck(error)
                await self._sleep(backoff.pause())
                continue
            else:
                self._acknowledge(end, len(batch))
                backoff.reset()
            self.away, self.refusal = False, None
            self._emptied.set()

    async def _gathered(self) -> None:
        """Wait for a first byte, then a moment for more, unless there is reason to hurry."""
        while not self._buffer:
            self._filled.clear()
            await self._filled.wait()
        if not self._closing and len(self._buffer) < BATCH:
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    await self._hurry()

    async def _hurry(self) -> None:
        while not self._closing and len(self._buffer) < BATCH:
            self._filled.clear()
            await self._filled.wait()

    async def ready(self) -> None:
        """Learn where the far end stands, so that `end` is true.

        Raises:
            LaunchError: the far end did not answer.
        """
        if self._start is None:
            self._start = await self._queue.log_end(self._lease, self._channel)
            self._base = self._start

    def _say_stuck(self, error: LaunchError) -> None:
        if not self.away and self.refusal is None:
            structlog.get_logger().warning("log bytes wait for the control plane", error=str(error))
        self.away = isinstance(error, UnreachableError)
        self.refusal = None if self.away else error.message

    def _acknowledge(self, end: int, sent: int) -> None:
        if end < self._base:
            self._buffer.clear()
            self._rewound = True
        else:
            # Never more than was sent: what came in the meantime is new.
            del self._buffer[: min(end - self._base, sent)]
        self._base = end


async def patiently(task: asyncio.Future[None], shipper: Shipper, stall: float) -> bool:
    """Wait for what a shipper is needed for; whether it was done.

    A far end that is away is waited for, since the outcome cannot reach it either; one that
    answers and takes nothing for `stall` seconds must not hold the outcome back.
    """
    while not task.done():
        before = shipper.acknowledged
        await asyncio.wait({task}, timeout=stall)
        moved = shipper.acknowledged != before or shipper.away
        if not task.done() and not moved:
            return False
    return True


class SetupLog:
    """`LogSink` of resolve and build: never raises, and says what is missing."""

    def __init__(self, shipper: Shipper) -> None:
        self._shipper = shipper

    async def write(self, data: bytes) -> None:
        """Take bytes; waits while the far end is slow or away."""
        try:
            await self._shipper.write(data)
        except RewoundError:
            await self._shipper.write(b"launch: an earlier part of this log was lost\n" + data)

    async def finished(self, stall: float) -> bool:
        """Wait until the far end has everything; false when it takes no more of it."""
        flushing = asyncio.create_task(self._flush(), name="flush-setup")
        try:
            return await patiently(flushing, self._shipper, stall)
        finally:
            await cancel_task(flushing)

    async def _flush(self) -> None:
        with suppress(RewoundError):
            await self._shipper.flush()
