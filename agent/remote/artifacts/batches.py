"""Small files sent together, to servers that take them so by their feature list.

A directory of code is a thousand small files, and a request for each costs more than its bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from agent.remote.artifacts.reading import Content

#: Bytes of a file that is small, and of one request; files of one request.
_SMALL: Final = 256 * 1024
_BYTES: Final = 2 * 1024 * 1024
_FILES: Final = 100
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


def batch_url(batch: Sequence[Addressed]) -> str:
    """Where a batch is sent to: the server as it calls itself in its addresses."""
    base, place, _ = batch[0].url.partition(_PLACE)
    return base + place


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
