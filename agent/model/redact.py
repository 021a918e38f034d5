"""Removes secrets from texts and byte streams.

Known secrets are replaced wherever they stand; besides, everything that looks like a key of
ours, a password in a URL, or the value after a name such as `token=`.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

MASK: Final = "***"

#: Shorter values are not treated as secrets: they would mask much of every text.
_SHORTEST: Final = 6

_PATTERNS: Final = (
    # Keys and run tokens of ours.
    re.compile(r"(?P<keep>\b(?:launch|launchrun)-)[A-Za-z0-9_-]{40}(?P<after>)"),
    # https://user:password@host, and https://token@host.
    # Schemes are short; without a bound a long name with many dots would take hours.
    re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{0,30}://[^\s/:@'\"]*:)[^\s/@'\"]+(?P<after>@)"),
    re.compile(r"(?P<keep>\bhttps?://)[^\s/:@'\"]+(?P<after>@)"),
    re.compile(r"(?i)(?P<keep>\b(?:basic|bearer)\s+)[A-Za-z0-9+/=._~-]{8,}(?P<after>)"),
    re.compile(
        r"(?i)(?P<keep>(?:api_?key|password|passwd|secret|token|authorization)[\"']?\s*[=:]\s*[\"']?)"
        r"(?!(?:basic|bearer)\b)[^\s\"',;&*][^\s\"',;&]*(?P<after>)"
    ),
)


class Redactor:
    """Knows secrets and removes them; `add` may be called at any time."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Remember a secret, in its lines and as URLs would write it."""
        lines = [line.strip() for line in secret.splitlines()] or [secret]
        forms = {form for line in lines for form in (line, quote(line, safe=""))}
        self._known |= {form for form in forms if len(form) >= _SHORTEST}
        longest_first = sorted(self._known, key=len, reverse=True)
        known = "|".join(re.escape(each) for each in longest_first)
        self._pattern = re.compile(known) if known else None

    def text(self, text: str) -> str:
        """The text without secrets."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\g<keep>{MASK}\g<after>", text)
        return text

    def stream(self) -> "StreamRedactor":
        """A redactor for bytes that arrive in pieces."""
        return StreamRedactor(self)


class StreamRedactor:
    """Redacts bytes in pieces, wherever they were cut.

    Whole lines are returned; an unfinished one waits for its end or for `flush`. Of a line that
    grows beyond `_LONGEST` bytes all but the last `_TAIL` are returned, so memory is bounded; a
    secret is at most that long.
    """

    _LONGEST: Final = 64 * 1024
    _TAIL: Final = 8 * 1024

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._waiting = b""

    def feed(self, data: bytes) -> bytes:
        """Take a piece; return the bytes that can be redacted by now."""
        self._waiting += data
        end = max(self._waiting.rfind(b"\n"), self._waiting.rfind(b"\r")) + 1
        if end == 0 and len(self._waiting) > self._LONGEST:
            end = self._safe_cut()
        ready, self._waiting = self._waiting[:end], self._waiting[end:]
        return self._clean(ready)

    def flush(self) -> bytes:
        """Redact and return the rest."""
        ready, self._waiting = self._waiting, b""
        return self._clean(ready)

    def _safe_cut(self) -> int:
        """Cut at a space before the tail, where no secret can be; else anywhere before it."""
        limit = len(self._waiting) - self._TAIL
        return self._waiting.rfind(b" ", 0, limit) + 1 or limit

    def _clean(self, data: bytes) -> bytes:
        text = data.decode("utf-8", "surrogateescape")
        return self._redactor.text(text).encode("utf-8", "surrogateescape")
