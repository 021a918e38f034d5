"""Byte offsets in a log whose backend knows time stamps only and drops the oldest part.

A mark is a frame's offset and time stamp. Marks are noted while reading, one at the beginning
and one for each further mebibyte, and kept in a file, so that a later agent can tell how much
of a rotated log it has missed. Behind a gap of unknown size, offsets go on one byte after the
last one known; the mark there says so.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.docker.log_frames import FramePart
from agent.ports.runner import UNKNOWN_MISSING, LogPiece, LogPosition

_EVERY: Final = 1024**2
#: Ends a mark's line in the file: the frame follows a gap of unknown size.
_GAP: Final = b" gap"


class LogMarks:
    """Marks of one log, in order. `path` is `None` where there is no folder for them."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._offsets: dict[bytes, int] = {}
        #: Offsets of frames that follow a gap of unknown size.
        self._gaps: set[int] = set()
        self._unsaved: list[bytes] = []
        #: Stamp of the log's first frame ever seen, and of the latest mark.
        self.first: bytes | None = None
        self.last: bytes | None = None

    def note(self, offset: int, stamp: bytes) -> None:
        """Keep a frame's place, if it is far enough from the last one that was kept."""
        if self.last is not None:
            near = offset - self._offsets[self.last] < _EVERY
            if near or stamp <= self.last:
                return
        self._keep(offset, stamp)
        self._unsaved.append(b"%d %s\n" % (offset, stamp))

    def note_gap(self, offset: int, stamp: bytes) -> int:
        """Keep a frame before which an unknown number of bytes is gone; returns its offset.

        `offset` is what the reader wants next. The returned one is greater, so that it notices the
        gap.
        """
        known = 0 if self.last is None else self._offsets[self.last]
        offset = max(offset, known) + 1
        self._keep(offset, stamp)
        self._gaps.add(offset)
        self._unsaved.append(b"%d %s%s\n" % (offset, stamp, _GAP))
        return offset

    def has_gap(self, start: int, end: int) -> bool:
        """Whether the number of bytes between two offsets is not known."""
        return any(start < gap <= end for gap in self._gaps)

    def offset_of(self, stamp: bytes) -> int | None:
        """Offset of the frame with this stamp, if it was noted."""
        return self._offsets.get(stamp)

    @property
    def unsaved(self) -> bool:
        """Whether `save` has something to do."""
        return bool(self._unsaved)

    def load(self) -> None:
        """Read what earlier readers noted. Blocks."""
        if self._path is None or not self._path.exists():
            return
        # Two readers of one log write the same marks twice, perhaps the last line in part.
        for line in sorted(self._path.read_bytes().split(b"\n")[:-1], key=_offset):
            self._keep(_offset(line), line.removesuffix(_GAP).partition(b" ")[2])
            if line.endswith(_GAP):
                self._gaps.add(_offset(line))

    def save(self) -> None:
        """Write what was noted since the last call. Blocks."""
        lines, self._unsaved = self._unsaved, []
        if self._path is not None and lines:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(b"".join(lines))

    def _keep(self, offset: int, stamp: bytes) -> None:
        self.first = self.first or stamp
        self._offsets[stamp] = offset
        self.last = stamp


@dataclass
class LogCursor:
    """One reading of a log, from the beginning of what the backend still has.

    `wanted` is the offset of the next byte to return. A frame's offset in the whole log is
    known from the beginning, as long as nothing was rotated away; else from the first frame
    that has a mark. If the log begins after all marks, it is only certain that bytes are gone.
    """

    marks: LogMarks
    wanted: int
    #: Offset of the next byte of the stream; `None` until it is known.
    _at: int | None = None
    _begun: bool = False

    def take(self, part: FramePart) -> LogPiece | None:
        """The bytes of a frame's part that are wanted."""
        if part.first:
            if self._at is None:
                self._at = self._locate(part.stamp)
            self._begun = True
        if self._at is None:
            return None
        start = self._at
        if part.first:
            self.marks.note(start, part.stamp)
        self._at = start + len(part.data)
        if self._at <= self.wanted:
            return None
        data = part.data[max(0, self.wanted - start) :]
        offset = self._at - len(data)
        unknown = self.marks.has_gap(self.wanted, offset)
        missing = UNKNOWN_MISSING if unknown else offset - self.wanted
        piece = LogPiece(LogPosition(skip=offset), data, missing)
        self.wanted = self._at
        return piece

    def _locate(self, stamp: bytes) -> int | None:
        if not self._begun and self.marks.first in {None, stamp}:
            return 0
        found = self.marks.offset_of(stamp)
        if found is not None:
            return found
        if self.marks.last is not None and stamp <= self.marks.last:
            return None
        return self.marks.note_gap(self.wanted, stamp)


def _offset(line: bytes) -> int:
    return int(line.partition(b" ")[0])
