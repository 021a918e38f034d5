"""Follows a container's log across broken connections, engine restarts and rotation."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Final

from agent.docker.client import Engine
from agent.docker.errors import EngineError, EngineUnavailableError
from agent.docker.log_frames import FramePart, LogFrameDecoder
from agent.ports.runner import MAYBE_MISSING, LogPiece, LogPosition
from agent.runners.docker.log_marks import LogCursor, LogMarks

_CHUNK: Final = 64 * 1024
#: Seconds before a stream that ended although the container runs is opened again.
_REPEAT_PAUSE: Final = 0.2
_PARAMS: Final = {"follow": "1", "stdout": "1", "stderr": "1", "timestamps": "1"}
_NOT_FOUND: Final = 404


class Follower:
    """Reads one container's log from an offset to its end."""

    def __init__(
        self,
        engine: Engine,
        container: str,
        marks: LogMarks,
        threads: Executor,
        is_running: Callable[[], Awaitable[bool]],
        is_whole: Callable[[], Awaitable[bool]],
        outage_timeout: float,
    ) -> None:
        self._engine = engine
        self._container = container
        self._marks = marks
        self._threads = threads
        self._is_running = is_running
        self._is_whole = is_whole
        self._outage_timeout = outage_timeout

    async def pieces(self, offset: int) -> AsyncGenerator[LogPiece, None]:
        """Yield pieces of at most 64 KiB.

        Raises:
            EngineError: the engine was unreachable for more than `outage_timeout` seconds.
        """
        await self._in_thread(self._marks.load)
        while True:
            try:
                async with aclosing(self._read(offset)) as pieces:
                    async for piece in pieces:
                        offset = piece.position.skip + len(piece.data)
                        yield piece
                if not await self._is_running():
                    if not await self._is_whole():
                        yield LogPiece(LogPosition(skip=offset), b"", MAYBE_MISSING)
                    return
                await asyncio.sleep(_REPEAT_PAUSE)
            except EngineError:
                if not await self._engine.wait_until_reachable(self._outage_timeout):
                    raise

    async def _read(self, offset: int) -> AsyncGenerator[LogPiece, None]:
        """Read one stream, which begins with the oldest part that the engine still has."""
        position = LogCursor(self._marks, offset)
        frames = LogFrameDecoder()
        path = f"/containers/{self._container}/logs"
        async with self._engine.stream(path, _PARAMS) as response:
            if response.status == _NOT_FOUND:
                return
            if response.status >= 300:  # noqa: PLR2004
                raise EngineUnavailableError(self._engine.address.given, await response.text())
            while chunk := await response.content.read(_CHUNK):
                pieces = list(_taken(frames.feed(chunk), position))
                if self._marks.unsaved:
                    await self._in_thread(self._marks.save)
                for piece in pieces:
                    yield piece

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _taken(entries: Iterator[FramePart], position: LogCursor) -> Iterator[LogPiece]:
    """The wanted parts of one chunk, adjacent ones joined."""
    joined: list[LogPiece] = []
    for entry in entries:
        piece = position.take(entry)
        if piece is None:
            continue
        if piece.missing and joined:
            yield _join(joined)
            joined = []
        joined.append(piece)
    if joined:
        yield _join(joined)


def _join(pieces: list[LogPiece]) -> LogPiece:
    first = pieces[0]
    return LogPiece(first.position, b"".join(piece.data for piece in pieces), first.missing)
