"""Small files sent together, to servers that take them so by their feature list.

A directory of code is a thousand small files, and a request for each costs more than its bytes.
Each goes behind a line with its size and the address that was made for it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agent.model.errors import InvalidInputError
from agent.remote.artifacts.reading import PIECE, Content, read_whole, verified

#: What the body of such a request is called.
TYPE: Final = "application/vnd.launch.contents"
#: Bytes of a file that is small, and of one request; files of one request.
_SMALL: Final = 256 * 1024
_BYTES: Final = 16 * 1024 * 1024
_FILES: Final = 500
#: Where the server's addresses of contents begin, and where many are sent to at once.
_PLACE: Final = "/storage/contents"


@dataclass(frozen=True, slots=True)
class Addressed:
    """A content and the address that was made for it."""

    content: Content
    url: str

    @property
    def is_small(self) -> bool:
        """Whether it is worth to be sent with others."""
        return self.content.size <= _SMALL and _PLACE in self.url

    @property
    def line(self) -> bytes:
        """What stands before its bytes."""
        return f"{self.content.size} {self.url}\n".encode()


def batch_url(batch: Sequence[Addressed]) -> str:
    """Where a batch is sent to: the server as it calls itself in its addresses."""
    base, place, _ = batch[0].url.partition(_PLACE)
    return base + place


def body_size(batch: Iterable[Addressed]) -> int:
    """Bytes of the whole request."""
    return sum(len(file.line) + file.content.size for file in batch)


def batches(files: Iterable[Addressed]) -> list[list[Addressed]]:
    """Small files by request, in their order."""
    found: list[list[Addressed]] = []
    room = 0
    for file in files:
        if not found or room < file.content.size or len(found[-1]) == _FILES:
            found.append([])
            room = _BYTES
        found[-1].append(file)
        room -= file.content.size
    return found


class BatchReading:
    """The body of a request with many files, read while it is sent.

    The server compares each with its digest, which the address names; hashing them here as
    well would cost as much as sending them.
    """

    def __init__(self, batch: Sequence[Addressed]) -> None:
        self._batch = batch
        #: Why the pieces could not be given.
        self.failure: InvalidInputError | None = None

    async def body(self) -> AsyncIterator[bytes]:
        """The pieces; what goes wrong with a file is kept as `failure`."""
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        files = iter(self._batch)
        try:
            while piece := await asyncio.to_thread(_next, files):
                yield piece
        except InvalidInputError as error:
            self.failure = error
            raise


def changed_in(batch: Iterable[Addressed]) -> InvalidInputError | None:
    """Which file is no longer the one that was hashed, if any is. Blocks."""
    for file in batch:
        try:
            verified(file.content, file.content.whole)
        except InvalidInputError as error:
            return error
    return None


def _next(files: Iterator[Addressed]) -> bytes:
    piece: list[bytes] = []
    room = PIECE
    for file in files:
        piece += (file.line, read_whole(file.content, file.content.whole))
        room -= file.content.size
        if room <= 0:
            break
    return b"".join(piece)
