"""Contents of an artifact's files: read in pieces, hashed on the way, split into parts, listed.

An upload sends exactly the bytes whose digest was announced, or fails: files may change
meanwhile.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Final

from agent.model.errors import InvalidInputError, LaunchError
from agent.model.job.digest import MANIFEST_HEAD, MANIFEST_NAME, decoded, encoded

#: Bytes in memory at a time, for each file in transfer.
PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A range of bytes of a content: offset, size, and the base64 of their MD5."""

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
    #: The file's path (as `str`, since there may be very many), or the bytes.
    origin: str | bytes

    @property
    def whole(self) -> ByteRange:
        """The part that is all of it."""
        return ByteRange(0, self.size, self.digest)

    def changed(self) -> InvalidInputError:
        """The error for a file that is not the one that was hashed."""
        message = f"'{self.path}' changed while it was being sent."
        return InvalidInputError(message, hint="Run the command again when nothing writes to it.")

    def unreadable(self, error: OSError) -> InvalidInputError:
        """The error for a file that can no longer be read."""
        message = f"'{self.path}' cannot be read any more: {error.strerror}."
        return InvalidInputError(message)


def read_whole(content: Content, part: ByteRange) -> bytes:
    """A small part at once. Blocks.

    Raises:
        InvalidInputError: its size changed since it was hashed, or it cannot be read any more.
    """
    if isinstance(content.origin, bytes):
        return content.origin[part.offset : part.end]
    try:
        with Path(content.origin).open("rb") as file:
            file.seek(part.offset)
            # One byte more shows that the file grew.
            data = file.read(part.size + int(part.end == content.size))
    except OSError as error:
        raise content.unreadable(error) from None
    if len(data) != part.size:
        raise content.changed()
    return data


def read_verified(content: Content, part: ByteRange) -> bytes:
    """As `read_whole`, compared with its digest. Blocks.

    Raises:
        InvalidInputError: it changed since it was hashed, or cannot be read any more.
    """
    data = read_whole(content, part)
    if encoded(hashlib.md5(data, usedforsecurity=False).digest()) != part.digest:
        raise content.changed()
    return data


class ContentReader:
    """A part of a file, hashed while it is read: exactly what was announced is sent."""

    def __init__(self, content: Content, part: ByteRange) -> None:
        self._content = content
        self._part = part
        #: Why the pieces could not be given.
        self.failure: InvalidInputError | None = None

    async def body(self) -> bytes | AsyncIterator[bytes]:
        """What to send: a small part at once, by one switch of threads, else its pieces.

        Raises:
            InvalidInputError: a small one cannot be given.
        """
        origin = self._content.origin
        if isinstance(origin, bytes):
            return origin[self._part.offset : self._part.end]
        if self._part.size > PIECE:
            return self._pieces(origin)
        return await asyncio.to_thread(read_verified, self._content, self._part)

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
        left = self._part.size
        # One byte beyond the end shows that the file grew.
        beyond = int(self._part.end == self._content.size)
        await asyncio.to_thread(file.seek, self._part.offset)
        while piece := await asyncio.to_thread(file.read, _next(left + beyond)):
            total.update(piece)
            left -= len(piece)
            # Before the last piece goes out, so that a changed file is never whole there.
            if left < 0 or (left == 0 and encoded(total.digest()) != self._part.digest):
                raise self._content.changed()
            yield piece
        if left:
            raise self._content.changed()


def _next(wanted: int) -> int:
    """How many bytes to read: the last piece and the byte beyond it in one."""
    return wanted if wanted <= PIECE + 1 else PIECE


# ------------------------------------------------------------------ parts of large files

#: Parts larger than usual are a multiple of this many bytes.
_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Sizes in bytes; the defaults are those of W&B's client, which their servers expect."""

    #: Smaller files go whole.
    threshold: int = 2 << 30
    #: Of each part but the last.
    size: int = 100 << 20
    #: Parts that a store takes for one file; beyond, the parts grow.
    most: int = 10_000
    #: What a store takes at all.
    largest: int = 5 << 40

    def size_for(self, file_size: int) -> int:
        """Bytes of each part but the last."""
        if file_size < self.size * self.most:
            return self.size
        fitting = -(-file_size // self.most)
        return -(-fitting // _BLOCK) * _BLOCK

    def count(self, file_size: int) -> int:
        """How many parts a file has; 0 when it goes whole."""
        return 0 if file_size < self.threshold else -(-file_size // self.size_for(file_size))


async def split_parts(content: Content, rules: PartSizes) -> tuple[ByteRange, ...]:
    """The parts of a file, hashed; none for one that goes whole.

    Raises:
        InvalidInputError: it is too large, cannot be read, or is not what was hashed before.
    """
    count = rules.count(content.size)
    if count == 0 or isinstance(content.origin, bytes):
        return ()
    if content.size > rules.largest:
        message = f"'{content.path}' has {content.size} bytes; {rules.largest} is the most."
        raise InvalidInputError(message, hint="Split it, or refer to it where it lies.")
    size = rules.size_for(content.size)
    whole = hashlib.md5(usedforsecurity=False)
    parts = []
    for offset in range(0, content.size, size):
        # One call for each part, so that a cancelled upload does not go on hashing.
        span = (offset, min(size, content.size - offset))
        digest = await asyncio.to_thread(_hash, content, Path(content.origin), span, whole)
        parts.append(ByteRange(*span, digest))
    if encoded(whole.digest()) != content.digest:
        raise content.changed()
    return tuple(parts)


def parts_input(parts: tuple[ByteRange, ...]) -> list[dict[str, Any]]:
    """The parts as `uploadPartsInput`."""
    return [
        {"partNumber": number, "hexMD5": decoded(part.digest).hex()}
        for number, part in enumerate(parts, start=1)
    ]


def _hash(content: Content, path: Path, span: tuple[int, int], whole: "hashlib._Hash") -> str:
    """The digest of a span (offset, size), whose bytes are added to `whole` as well."""
    offset, left = span
    own = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            while left and (piece := file.read(min(PIECE, left))):
                own.update(piece)
                whole.update(piece)
                left -= len(piece)
    except OSError as error:
        raise content.unreadable(error) from None
    if left:
        raise content.changed()
    return encoded(own.digest())


# ------------------------------------------------------------------ manifest


def write_manifest(
    file: IO[bytes],
    contents: Iterable[Content],
    artifact_id: str,
    birth_artifacts: Mapping[str, str],
) -> Content:
    """Write the manifest of a version into a file; returns it as a content to be sent. Blocks.

    `birth_artifacts`: path → artifact that the file was first stored with, where that is
    another one. A version may have very many files: the manifest is never whole in memory.

    Raises:
        LaunchError: the disk is full.
    """
    md5, size = hashlib.md5(usedforsecurity=False), 0
    try:
        for piece in _manifest_pieces(contents, artifact_id, birth_artifacts):
            md5.update(piece)
            size += file.write(piece)
        file.flush()
    except OSError as error:
        message = f"The manifest cannot be written to {file.name}: {error.strerror}."
        raise LaunchError(message, hint="Set TMPDIR to a folder with more space.") from None
    return Content(MANIFEST_NAME, encoded(md5.digest()), size, file.name)


def _manifest_pieces(
    contents: Iterable[Content], artifact_id: str, birth_artifacts: Mapping[str, str]
) -> Iterator[bytes]:
    yield f'{json.dumps(MANIFEST_HEAD)[:-1]}, "contents": {{'.encode()
    between = ""
    for each in contents:
        born = birth_artifacts.get(each.path, artifact_id)
        entry = {"digest": each.digest, "size": each.size, "birthArtifactID": born}
        yield f"{between}{json.dumps(each.path)}: {json.dumps(entry)}".encode()
        between = ", "
    yield b"}}"
