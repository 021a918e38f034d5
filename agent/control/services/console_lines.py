r"""Lines of a run's console output, as W&B's clients send them.

Escape sequences and `\r` stay in the text; `web/static/terminal.js` renders them.
"""

import json
import re
from dataclasses import dataclass
from typing import Final

#: `ERROR 2026-11-20T07:59:58.351678 text`; the level only for standard error.
_PLAIN: Final = re.compile(
    r"(ERROR )?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)(?: (.*))?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class ConsoleLine:
    """One line; `timestamp` as of ISO 8601 in UTC, empty when none was sent."""

    number: int
    line: str
    timestamp: str = ""
    #: `error` for standard error.
    level: str = ""
    #: Of several processes that write to one run: which wrote it.
    label: str = ""

    @classmethod
    def parse(cls, number: int, stored: bytes) -> "ConsoleLine":
        """From a stored line: text after a time, a JSON object, or anything else as it is."""
        text = stored.decode(errors="replace")
        if text.startswith("{"):
            found = _structured(text)
            if found is not None:
                level, label = str(found.get("level", "")), str(found.get("label", ""))
                return cls(number, str(found["content"]), str(found.get("ts", "")), level, label)
        plain = _PLAIN.fullmatch(text)
        if plain is None:
            return cls(number, text)
        return cls(number, plain[3] or "", plain[2], "error" if plain[1] else "")


def _structured(text: str) -> dict[str, object] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "content" in found else None
