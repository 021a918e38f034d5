"""Contents of an artifact's files, read piece by piece and hashed on the way."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final

from agent.model.errors import InvalidInputError
from agent.model.job.digest import encoded

#: Bytes that are in memory at a time, for each file on its way.
PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of a content: where it begins, its bytes, the base64 of their MD5."""

    offset: int
    size: int
    digest: str

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Content:
    """One file of an artifact: its path there, and what is in it."""

    path: str
    #: Base64 of the MD5 of the content.
    digest: str
    size: int
    #: Where the content lies: a file's path, as text since there may be very many; or the bytes.
    origin: str | bytes

    @property
    def whole(self) -> Extent:
        """The extent that is all of it."""
        return Extent(0, self.size, self.digest)

    def changed(self) -> InvalidInputError:
        """What is told when the file is no longer the one that was hashed."""
        message = f"'{self.path}' changed while it was being sent."
        return InvalidInputError(message, hint="Run the command again when nothing writes to it.")

    def unreadable(self, error: OSError) -> InvalidInputError:
        """What is told when the file can no longer be read."""
        message = f"'{self.path}' cannot be read any more: {error.strerror}."
        return InvalidInputError(message)


def read_whole(content: Content, extent: Extent) -> bytes:
    """A small extent at once. Blocks.

    Raises:
        InvalidInputError: its size changed since it was hashed, or it cannot be read any more.
    """
    if isinstance(content.origin, bytes):
        return content.origin[extent.offset : extent.end]
    try:
        with Path(content.origin).open("rb") as file:
            file.seek(extent.offset)
            # One byte more tells a file that grew.
            data = file.read(extent.size + int(extent.end == content.size))
    except OSError as error:
        raise content.unreadable(error) from None
    if len(data) != extent.size:
        raise content.changed()
    return data


def verified(content: Content, extent: Extent) -> bytes:
    """As `read_whole`, compared with its digest. Blocks.

    Raises:
        InvalidInputError: it changed since it was hashed, or cannot be read any more.
    """
    data = read_whole(content, extent)
    if encoded(hashlib.md5(data, usedforsecurity=False).digest()) != extent.digest:
        raise content.changed()
    return data


class Reading:
    """An extent, hashed while it is read: what was promised is what is sent."""

    def __init__(self, content: Content, extent: Extent) -> None:
        self._content = content
        self._extent = extent
        #: Why the pieces could not be given.
        self.failure: InvalidInputError | None = None

    async def body(self) -> bytes | AsyncIterator[bytes]:
        """What to send: a small extent at once, by one switch of threads, else its pieces.

        Raises:
            InvalidInputError: a small one cannot be given.
        """
        origin = self._content.origin
        if isinstance(origin, bytes):
            return origin[self._extent.offset : self._extent.end]
        if self._extent.size > PIECE:
            return self._pieces(origin)
        return await asyncio.to_thread(verified, self._content, self._extent)

    async def _pieces(self, origin: str) -> AsyncIterator[bytes]:
        try:
            with await asyncio.to_thread(Path(origin).open, "rb") as file:
                async for piece in self._of(file):
                    yield piece
        except OSError as error:
            self.failure = self._content.unreadable(error)
            raise self.failure from None
        except InvalidInputError as error:
            self.failure = error
            raise

    async def _of(self, file: BufferedReader) -> AsyncIterator[bytes]:
        total = hashlib.md5(usedforsecurity=False)
        left = self._extent.size
        # One byte beyond the end of the content tells a file that grew.
        beyond = int(self._extent.end == self._content.size)
        await asyncio.to_thread(file.seek, self._extent.offset)
        while piece := await asyncio.to_thread(file.read, _next(left + beyond)):
            total.update(piece)
            left -= len(piece)
            # Before the last piece goes out, so that a changed file is never whole there.
            if left < 0 or (left == 0 and encoded(total.digest()) != self._extent.digest):
                raise self._content.changed()
            yield piece
        if left:
            raise self._content.changed()


def _next(wanted: int) -> int:
    """How many bytes to read: the last piece and the byte beyond it in one."""
    return wanted if wanted <= PIECE + 1 else PIECE
