"""How a large file is cut into parts, by the rules of W&B's client.

Object stores take no single request of more than 5 GiB, and a cut one begins anew; a part that
is cut costs one part. Each is announced by its number, from 1, and by the MD5 of its bytes.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.model.errors import InvalidInputError
from agent.model.job.digest import decoded, encoded
from agent.remote.artifacts.reading import PIECE, Content, Extent

#: A part of more than the usual size is a multiple of this many bytes.
_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class Parting:
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


async def cut(content: Content, rules: Parting) -> tuple[Extent, ...]:
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
        stretch = (offset, min(size, content.size - offset))
        digest = await asyncio.to_thread(_hash, content, Path(content.origin), stretch, whole)
        parts.append(Extent(*stretch, digest))
    if encoded(whole.digest()) != content.digest:
        raise content.changed()
    return tuple(parts)


def announced(parts: tuple[Extent, ...]) -> list[dict[str, Any]]:
    """The parts as `uploadPartsInput`."""
    return [
        {"partNumber": number, "hexMD5": decoded(part.digest).hex()}
        for number, part in enumerate(parts, start=1)
    ]


def _hash(content: Content, path: Path, stretch: tuple[int, int], whole: "hashlib._Hash") -> str:
    """The digest of a stretch, offset and size, whose bytes are added to `whole` as well."""
    offset, left = stretch
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
