"""A log as plain text, for pages without scripts: no colours, only what stays on the screen."""

import re
from typing import Final

_ESCAPES: Final = re.compile(
    r"\x1b(?:"
    r"\[[0-9;:<=>?]*[ -/]*[@-~]"  # colours and cursor moves
    r"|[\]PX^_].*?(?:\x07|\x1b\\|\Z)"  # titles, links and other strings
    r"|[()#%* ].|[^\[\]PX^_]|\Z)",
    re.DOTALL,
)
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LONGEST_LINE: Final = 4000


def plain_text(data: bytes, *, from_start: bool) -> str:
    """The text of a piece of a log; a first line that is cut at its start is left out."""
    text = _ESCAPES.sub("", data.decode(errors="replace"))
    lines = text.split("\n")
    if not from_start and len(lines) > 1:
        lines = lines[1:]
    return "\n".join(_last_state(line) for line in lines)


def _last_state(line: str) -> str:
    """What a line shows in the end: a progress bar's last drawing."""
    drawn = [part for part in line.split("\r") if part]
    shown = _CONTROLS.sub("", drawn[-1]) if drawn else ""
    return shown if len(shown) <= _LONGEST_LINE else shown[:_LONGEST_LINE] + " …"
