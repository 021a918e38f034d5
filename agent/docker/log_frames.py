"""Decoding the engine's log stream, chunk by chunk and in bounded memory.

A stream without a terminal is a sequence of frames: a byte that names the pipe, three zeros,
four bytes of length, then a time stamp, a space, and what the job wrote. The engine cuts long
lines into frames; frames are in the order in which the engine received them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError

_HEADER: Final = 8
#: `2026-01-02T03:04:05.000000006Z` and the space after it.
_STAMP: Final = 31


@dataclass(frozen=True, slots=True)
class FramePart:
    """A part of one frame."""

    #: Fixed width, UTC: later ones compare greater.
    stamp: bytes
    data: bytes
    #: Whether the frame begins here.
    first: bool


class LogFrameDecoder:
    """Decodes one log stream; between chunks it keeps only an incomplete header."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._stamp = b""
        self._remaining = 0
        self._first = False

    def feed(self, chunk: bytes) -> Iterator[FramePart]:
        """The parts that `chunk` completes.

        Raises:
            JobError: `LOST_ENGINE`: this is not a log stream with time stamps.
        """
        self._buffer += chunk
        at = 0
        while True:
            if not self._remaining:
                if len(self._buffer) - at < _HEADER + _STAMP:
                    break
                at = self._open(at)
            if at == len(self._buffer) and self._remaining:
                break
            end = min(at + self._remaining, len(self._buffer))
            yield FramePart(self._stamp, bytes(self._buffer[at:end]), self._first)
            self._remaining -= end - at
            self._first = False
            at = end
        del self._buffer[:at]

    def _open(self, at: int) -> int:
        size = int.from_bytes(self._buffer[at + 4 : at + _HEADER], "big") - _STAMP
        start = at + _HEADER
        end = start + _STAMP
        self._stamp = bytes(self._buffer[start : end - 1])
        if size < 0 or self._buffer[end - 1 : end] != b" ":
            message = "The container engine sent a log that cannot be read."
            raise JobError(Cause.LOST_ENGINE, message, hint="Is the job's log driver `local`?")
        self._remaining = size
        self._first = True
        return end
