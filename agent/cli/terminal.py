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
_COLOURS: Final = re.compile(r"\x1b\[[0-9;:?]*[A-Za-z]")
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-9;:]{0,32})?\Z")


def escape_control_characters(value: object) -> str:
    r"""A text that prints as one sees it: `\x1b` instead of an escape character."""
    return _CONTROL.sub(_escaped, "" if value is None else str(value))


def plain_lines(data: bytes) -> list[str]:
    """The lines of a log as a terminal would show them in the end, without colours."""
    text = data.decode(errors="replace").replace("\r\n", "\n")
    shown = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return [escape_control_characters(_COLOURS.sub("", line)).rstrip() for line in shown]


class LogOutput:
    """Copies a log to a stream: unchanged to files and pipes, harmless on a terminal.

    Without `progress`, files and pipes get of a line that was overwritten only its last state.
    """

    def __init__(self, stream: TextIO, *, progress: bool = True) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._collapses = not progress and not self._is_terminal
        self._line = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unfinished = ""
        self.is_empty = True

    def write(self, piece: bytes) -> None:
        """Write the next bytes of the log."""
        self.is_empty = False
        if self._collapses:
            piece = self._without_progress(piece)
        self._stream.buffer.write(self._harmless(piece) if self._is_terminal else piece)
        self._stream.buffer.flush()

    def end(self) -> None:
        """Write what was held back of a last line without an end."""
        if self._line:
            self.write(b"\n")

    def _without_progress(self, piece: bytes) -> bytes:
        *lines, rest = (self._line + piece).split(b"\n")
        # A carriage return at the end may be half of a line's end.
        kept = rest.rstrip(b"\r")
        self._line = kept[kept.rfind(b"\r") + 1 :] + rest[len(kept) :]
        ended = (line.removesuffix(b"\r") for line in lines)
        return b"".join(line[line.rfind(b"\r") + 1 :] + b"\n" for line in ended)

    def _harmless(self, piece: bytes) -> bytes:
        text = self._unfinished + self._decoder.decode(piece)
        unfinished = _UNFINISHED.search(text)
        end = unfinished.start() if unfinished else len(text)
        self._unfinished = text[end:]
        return _IN_LOGS.sub(lambda found: found["allowed"] or _escaped(found), text[:end]).encode()


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 -- two digits
