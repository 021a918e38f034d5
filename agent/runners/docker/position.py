"""From frames to pieces at offsets: what to skip, what to give, what is missing."""

from dataclasses import dataclass
from typing import Final

from agent.docker.log_frames import FramePart
from agent.ports.runner import LogPiece
from agent.runners.docker.marks import Marks

#: Reported as missing where a loss is certain and its size is not.
_UNKNOWN: Final = 1


@dataclass
class Position:
    """One reading of a log from what the engine still has of its beginning.

    `wanted` is the offset of the next byte to give. The place of a frame in the whole log is
    known from the beginning, as long as nothing was rotated away; else from the first frame
    that bears a mark; and when the log begins after all marks, only that some bytes are gone.
    """

    marks: Marks
    wanted: int
    #: Offset of the next byte of the stream; `None` while it is looked for.
    _at: int | None = None
    _begun: bool = False

    def take(self, entry: FramePart) -> LogPiece | None:
        """The part of an entry that is wanted."""
        if entry.first:
            if self._at is None:
                self._at = self._locate(entry.stamp)
            self._begun = True
        if self._at is None:
            return None
        start = self._at
        if entry.first:
            self.marks.note(start, entry.stamp)
        self._at = start + len(entry.data)
        if self._at <= self.wanted:
            return None
        data = entry.data[max(0, self.wanted - start) :]
        offset = self._at - len(data)
        piece = LogPiece(offset, data, offset - self.wanted)
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
        return self.wanted + _UNKNOWN
