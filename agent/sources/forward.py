"""A read-only, forward-only view of a decompressing stream, with limits.

`tarfile` keeps whole extended headers in memory and trusts sizes in them. Every read goes
through here: large single reads, steps backward and too many bytes in all are refused.
"""

import io
from typing import Final, Protocol

#: Extended headers hold names and a few numbers; a larger single read is an attack.
_LONGEST_READ: Final = 1024 * 1024
_SKIP: Final = 256 * 1024


class LimitError(Exception):
    """The stream asks for more than it may have; the text says what."""


class Readable(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


class ForwardReader(io.RawIOBase):
    """Counts bytes, remembers the last one (`tarfile` steps back by one), skips forward."""

    def __init__(self, source: Readable, max_bytes: int) -> None:
        super().__init__()
        self._source = source
        self._max_bytes = max_bytes
        self._position = 0
        self._last = b""
        self._again = False

    def tell(self) -> int:
        """Bytes handed out."""
        return self._position - (1 if self._again else 0)

    def seekable(self) -> bool:
        """Forward only, which is all that `tarfile` needs."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Skip forward, or step back by one byte.

        Raises:
            LimitError: further back than that.
        """
        if whence != io.SEEK_SET or offset < self._position - 1:
            raise LimitError("a header points backwards")
        self._again = offset == self._position - 1
        while self._position < offset:
            if not self._take(min(_SKIP, offset - self._position)):
                break
        return self.tell()

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes.

        Raises:
            LimitError: too much at once, or in all.
        """
        if size < 0 or size > _LONGEST_READ:
            raise LimitError("a header is larger than 1 MiB")
        if size and self._again:
            self._again = False
            return self._last + self.read(size - 1)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        data = self._source.read(size) if size else b""
        self._position += len(data)
        self._last = data[-1:] or self._last
        if self._position > self._max_bytes:
            raise LimitError("it unpacks to more than is allowed")
        return data
