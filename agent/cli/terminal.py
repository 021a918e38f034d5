"""Text of jobs and other users on a terminal: their control sequences are shown, not obeyed."""

import codecs
import re
from typing import Final, TextIO

#: Control characters except tab and line break; those that change the direction of text or
#: separate lines; lone surrogates, which cannot be printed.
_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
#: In the output of a job, also allowed: backspace, carriage return, colours, and moving or erasing
#: within a line.
_IN_LOGS: Final = re.compile(
    r"(?P<allowed>[\x08\r]|\x1b\[[0-9;:]{0,32}[mCDGK])|" + _CONTROL.pattern
)
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-9;:]{0,32})?\Z")


def escape_control_characters(value: object) -> str:
    r"""A text that prints as one sees it: `\x1b` instead of an escape character."""
    return _CONTROL.sub(_escaped, "" if value is None else str(value))


class LogOutput:
    """Copies a log to a stream: unchanged to files and pipes, harmless on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unfinished = ""
        self.is_empty = True

    def write(self, piece: bytes) -> None:
        """Write the next bytes of the log."""
        self.is_empty = False
        self._stream.buffer.write(self._harmless(piece) if self._is_terminal else piece)
        self._stream.buffer.flush()

    def _harmless(self, piece: bytes) -> bytes:
        text = self._unfinished + self._decoder.decode(piece)
        unfinished = _UNFINISHED.search(text)
        end = unfinished.start() if unfinished else len(text)
        self._unfinished = text[end:]
        return _IN_LOGS.sub(lambda found: found["allowed"] or _escaped(found), text[:end]).encode()


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 -- two digits
