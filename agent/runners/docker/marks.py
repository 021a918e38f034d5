"""Where in a log the engine's time stamps stand: to find one's place after a rotation.

The engine knows no offsets and forgets the oldest part of a long log. A mark is the offset of
a frame and its time stamp; marks are noted while reading, one at the beginning and one for
each further mebibyte, and kept in a file, so that the next agent finds its place as well.
"""

from pathlib import Path
from typing import Final

_EVERY: Final = 1024**2


class Marks:
    """Marks of one log, in order. `path` is `None` where there is no folder for them."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._offsets: dict[bytes, int] = {}
        self._unsaved: list[bytes] = []
        #: Stamp of the log's first frame ever seen, and of the latest mark.
        self.first: bytes | None = None
        self.last: bytes | None = None

    def note(self, offset: int, stamp: bytes) -> None:
        """Keep a frame's place, where it is far enough from the last one that was kept."""
        if self.last is not None:
            near = offset - self._offsets[self.last] < _EVERY
            if near or stamp <= self.last:
                return
        self._keep(offset, stamp)
        self._unsaved.append(b"%d %s\n" % (offset, stamp))

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
            self._keep(_offset(line), line.partition(b" ")[2])

    def save(self) -> None:
        """Write down what was noted since. Blocks."""
        lines, self._unsaved = self._unsaved, []
        if self._path is not None and lines:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(b"".join(lines))

    def _keep(self, offset: int, stamp: bytes) -> None:
        self.first = self.first or stamp
        self._offsets[stamp] = offset
        self.last = stamp


def _offset(line: bytes) -> int:
    return int(line.partition(b" ")[0])
