"""Reads the log of one container, from any position.

The kubelet puts a time stamp before each line and can begin at a whole second, so a position is
the time stamp of a line (`mark`) and the bytes after the beginning of that line. Of a log that
was rotated it gives the newest file only; what is gone is marked where it can be noticed.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import aiohttp

from agent.model.errors import JobError
from agent.ports.runner import MAYBE_MISSING, UNKNOWN_MISSING, LogPiece, LogPosition
from agent.runners.kubernetes.api import NOT_FOUND, PODS, ClusterApi, ClusterRefusedError
from agent.runners.kubernetes.job_states import JobState
from agent.system.backoff import Backoff
from agent.system.tasks import cancel_task

_PIECE: Final = 64 * 1024
#: Seconds before a log that ended is read again, although its container was not seen to end:
#: the state of a container arrives up to some seconds later than the last line.
_FIRST_PAUSE: Final = 6.0
_LONGEST_AFTER_END: Final = 5.0
#: How often in a row the log of a container that has ended may fail to be read.
_TRIES: Final = 6
_BAD_REQUEST: Final = 400
_STAMP: Final = re.compile(rb"\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-][0-9:]+)\Z")


@dataclass(frozen=True, slots=True)
class Container:
    """One container of one pod."""

    pod_uid: str
    pod: str
    name: str


class ContainerLog:
    """The log of a container that was started."""

    def __init__(
        self, api: ClusterApi, namespace: str, container: Container, state: JobState
    ) -> None:
        self._api = api
        self._path = PODS.path(namespace, container.pod, "log")
        self._container = container
        self._state = state

    async def pieces(self, position: LogPosition) -> AsyncGenerator[LogPiece, None]:
        """From a position to its end, across broken connections.

        A last piece without data says that the end could not be read.
        """
        ended, broken, failures = Backoff(_FIRST_PAUSE), Backoff(), 0
        while True:
            is_last = self._has_ended()
            backoff = ended
            try:
                async for piece in self._read(position, follow=not is_last):
                    position = piece.position.after(len(piece.data))
                    failures = 0
                    broken.reset()
                    yield piece
            except JobError as error:
                if _will_never_come(error) and (is_last or self._is_gone()):
                    failures = _TRIES
                failures += is_last
                backoff, is_last = broken, failures >= _TRIES
                if is_last:
                    yield LogPiece(position, b"", MAYBE_MISSING)
            if is_last:
                return
            await self._ended_or(backoff.pause())

    def _has_ended(self) -> bool:
        return self._is_gone() or self._state.has_ended(
            self._container.pod_uid, self._container.name
        )

    def _is_gone(self) -> bool:
        return not self._state.exists(self._container.pod_uid)

    async def _ended_or(self, seconds: float) -> None:
        """Wait until the container is seen to end, or for some time if that was seen."""
        if self._has_ended():
            await asyncio.sleep(min(seconds, _LONGEST_AFTER_END))
            return
        try:
            async with asyncio.timeout(seconds):
                await self._ended()
        except TimeoutError:
            return

    async def _read(self, position: LogPosition, *, follow: bool) -> AsyncIterator[LogPiece]:
        """What there is; `follow`: also what comes until the container is seen to end."""
        query = {"container": self._container.name, "timestamps": "true"}
        if follow:
            query["follow"] = "true"
        if position.mark:
            query["sinceTime"] = _whole_second(position.mark)
        cursor = _Cursor(position)
        async with self._api.stream(self._path, query, None) as response:
            # A kubelet notices up to five seconds late that nothing more will come.
            ended = asyncio.create_task(self._ended()) if follow else None
            try:
                while chunk := await _next(response.content, ended):
                    for piece in cursor.feed(chunk):
                        yield piece
            finally:
                await cancel_task(ended)

    async def _ended(self) -> None:
        while not self._has_ended():
            await self._state.newer_than(self._state.version)


async def _next(content: aiohttp.StreamReader, ended: asyncio.Task[None] | None) -> bytes:
    """The next bytes; none when the stream ends, or when `ended` does before."""
    if ended is None:
        return await content.readany()
    reading = asyncio.create_task(content.readany())
    try:
        await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else b""
    finally:
        if not reading.done():
            await cancel_task(reading)


def _will_never_come(error: JobError) -> bool:
    """There is no such pod, or no such container in it."""
    return isinstance(error, ClusterRefusedError) and error.status in {NOT_FOUND, _BAD_REQUEST}


class _Cursor:
    """Takes stamped lines apart and gives what comes after a position."""

    def __init__(self, position: LogPosition) -> None:
        #: Position of the next byte. The mark moves on with each line that has a later stamp
        #: than the one before it, so that it names one line.
        self._mark = position.mark
        self._offset = 0
        self._skip = position.skip
        self._found = not position.mark
        self._stamp = ""
        self._inside = False
        self._buffer = b""
        self._missing = 0

    def feed(self, chunk: bytes) -> list[LogPiece]:
        """Pieces of at most 64 KiB."""
        data, self._buffer = self._buffer + chunk, b""
        taken: list[LogPiece] = []
        while data:
            if not self._inside:
                stamp, space, rest = data.partition(b" ")
                if not space:
                    self._buffer = data
                    break
                if _STAMP.match(stamp):
                    self._begin(stamp.decode("ascii"))
                    data = rest
                else:
                    # The kubelet's own words, in place of a log that is gone.
                    taken.append(
                        LogPiece(LogPosition(self._mark, self._offset), b"", MAYBE_MISSING)
                    )
                    data = data.partition(b"\n")[2]
                continue
            end = data.find(b"\n") + 1
            content, data = (data[:end], data[end:]) if end else (data, b"")
            self._inside = not end
            if self._found:
                self._take(content, taken)
        return _joined(taken)

    def _begin(self, stamp: str) -> None:
        self._inside = True
        if not self._found and stamp >= self._mark:
            self._found = True
            if stamp > self._mark:
                # The marked line is gone; how much is missing is not known.
                self._missing, self._skip, self._mark = UNKNOWN_MISSING, 0, stamp
        elif self._found and not self._skip and stamp > self._stamp:
            self._mark, self._offset = stamp, 0
        self._stamp = stamp

    def _take(self, content: bytes, taken: list[LogPiece]) -> None:
        skipped = min(self._skip, len(content))
        self._skip -= skipped
        self._offset += skipped
        for start in range(skipped, len(content), _PIECE):
            part = content[start : start + _PIECE]
            taken.append(LogPiece(LogPosition(self._mark, self._offset), part, self._missing))
            self._missing = 0
            self._offset += len(part)


def _joined(pieces: list[LogPiece]) -> list[LogPiece]:
    joined: list[LogPiece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and last.data and not piece.missing and len(last.data) + len(piece.data) <= _PIECE:
            joined[-1] = LogPiece(last.position, last.data + piece.data, last.missing)
        else:
            joined.append(piece)
    return joined


def _whole_second(stamp: str) -> str:
    return datetime.fromisoformat(stamp).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
