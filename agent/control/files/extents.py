"""Which bytes of a log an object holds, and which objects to merge: pure rules."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_SMALL: Final = 16 * 1024
_LARGE: Final = 1024 * 1024
_RUN: Final = 32


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes `start` (inclusive) to `end` (exclusive)."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.start

    @property
    def name(self) -> str:
        """Name of the object; sorts by start, then end."""
        return f"{self.start:020d}-{self.end:020d}"

    @classmethod
    def parse(cls, name: str) -> "Extent":
        """The reverse of `name`."""
        start, _, end = name.partition("-")
        return cls(int(start), int(end))


def chain(found: Iterable[Extent]) -> list[Extent]:
    """Extents that together cover a log from 0 without a gap, each byte's widest first.

    A merge that was cut short leaves the merged object beside its parts: the parts are left
    out. What lies beyond a gap is not part of the log.
    """
    chosen: list[Extent] = []
    end = 0
    for extent in sorted(found, key=lambda each: (each.start, -each.end)):
        if extent.start > end:
            break
        if extent.end > end:
            chosen.append(Extent(extent.start, extent.end))
            end = extent.end
    return chosen


def mergeable(extents: Sequence[Extent]) -> int | None:
    """Index from which on the extents at the end should become one; `None`: leave them.

    Sizes fall into three classes, and only a run of one class at the end is merged: each
    byte is rewritten a few times at most.
    """
    if not extents or _class(extents[-1]) == _class_of(_LARGE):
        return None
    kind = _class(extents[-1])
    first = len(extents)
    total = 0
    while first and _class(extents[first - 1]) == kind:
        first -= 1
        total += extents[first].size
    run = len(extents) - first
    return first if run >= _RUN or (run > 1 and total >= _LARGE) else None


def _class(extent: Extent) -> int:
    return _class_of(extent.size)


def _class_of(size: int) -> int:
    return (size >= _SMALL) + (size >= _LARGE)
