"""Reads the log of a job's container, from any position.

The kubelet puts a time stamp before each line and can begin at a whole second, so a position is
the time stamp of a line (`mark`) and the bytes after the beginning of that line.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

from agent.model.errors import JobError
from agent.ports.runner import LogPiece, LogPosition
from agent.runners.kubernetes.api import NOT_FOUND, PODS, ClusterApi, ClusterRefusedError

_PIECE: Final = 64 * 1024
#: Seconds before a log that broke off is asked for again.
_AGAIN: Final = 0.5
_FOLLOW: Final = {"follow": "true", "timestamps": "true"}
_BAD_REQUEST: Final = 400


class ContainerLog:
    """The log of one container; its pod has been placed on a node."""

    def __init__(
        self,
        api: ClusterApi,
        namespace: str,
        pod: str,
        container: str,
        has_ended: Callable[[], bool],
    ) -> None:
        self._api = api
        self._path = PODS.path(namespace, pod, "log")
        self._container = container
        self._has_ended = has_ended

    async def pieces(self, position: LogPosition) -> AsyncGenerator[LogPiece, None]:
        """From a position to its end, across broken connections."""
        while True:
            whole = self._has_ended()
            try:
                async for piece in self._read(position):
                    position = piece.position.after(len(piece.data))
                    yield piece
            except ClusterRefusedError as error:
                if error.status == NOT_FOUND or (whole and error.status == _BAD_REQUEST):
                    return
            except JobError:
                whole = False
            if whole:
                return
            await asyncio.sleep(_AGAIN)

    async def _read(self, position: LogPosition) -> AsyncIterator[LogPiece]:
        query = {**_FOLLOW, "container": self._container}
        if position.mark:
            query["sinceTime"] = _whole_second(position.mark)
        cursor = _Cursor(position)
        async with self._api.stream(self._path, query, None) as response:
            async for chunk in response.content.iter_any():
                for piece in cursor.feed(chunk):
                    yield piece


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
        self._gap = False

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
                self._begin(stamp.decode("ascii", "replace"))
                data = rest
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
                self._gap, self._skip, self._mark = True, 0, stamp
        elif self._found and not self._skip and stamp > self._stamp:
            self._mark, self._offset = stamp, 0
        self._stamp = stamp

    def _take(self, content: bytes, taken: list[LogPiece]) -> None:
        skipped = min(self._skip, len(content))
        self._skip -= skipped
        self._offset += skipped
        for start in range(skipped, len(content), _PIECE):
            part = content[start : start + _PIECE]
            taken.append(LogPiece(LogPosition(self._mark, self._offset), part, int(self._gap)))
            self._gap = False
            self._offset += len(part)


def _joined(pieces: list[LogPiece]) -> list[LogPiece]:
    joined: list[LogPiece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and not piece.missing and len(last.data) + len(piece.data) <= _PIECE:
            joined[-1] = LogPiece(last.position, last.data + piece.data, last.missing)
        else:
            joined.append(piece)
    return joined


def _whole_second(stamp: str) -> str:
    return datetime.fromisoformat(stamp).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
