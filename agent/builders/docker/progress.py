"""Reads BuildKit's plain progress while it passes: which step says what, which one failed."""

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Final

_LINE: Final = re.compile(r"#(?P<step>\d+) (?P<text>.*)")
_TIMED: Final = re.compile(r"\d+\.\d+ (?P<text>.*)")
_NAME: Final = re.compile(r"\[.*?\] .+")
_LONGEST: Final = 4096
_KEPT_LINES: Final = 60


@dataclass
class BuildProgress:
    """Feed it the output as it comes; memory stays bounded."""

    #: Name of a step: `[stage-0 2/4] RUN make`.
    names: dict[str, str] = field(default_factory=dict)
    #: The step that failed, and BuildKit's words about it.
    failed: str | None = None
    error: str = ""
    _tails: dict[str, deque[str]] = field(default_factory=dict)
    _rest: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    _partial: bytes = b""

    def feed(self, data: bytes) -> None:
        """Take a piece of output."""
        *lines, last = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line.decode("utf-8", "replace")[:_LONGEST].rstrip("\r"))
        self._partial = last[-_LONGEST:]

    def finish(self) -> None:
        """There is no more output."""
        self.feed(b"\n")

    @property
    def failed_step(self) -> str:
        """Name of the failed step; empty when none was named."""
        return self.names.get(self.failed or "", "")

    @property
    def failed_output(self) -> str:
        """The last lines of the failed step."""
        return "\n".join(self._tails.get(self.failed or "", ()))

    @property
    def rest(self) -> str:
        """The last lines that belong to no step: BuildKit's summary."""
        return "\n".join(self._rest)

    def _line(self, line: str) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            self._unnumbered(line)
            return
        step, text = match["step"], match["text"]
        timed = _TIMED.fullmatch(text)
        if timed is not None:
            self._tails.setdefault(step, deque(maxlen=_KEPT_LINES)).append(timed["text"])
        elif text.startswith("ERROR: "):
            self.failed, self.error = step, text.removeprefix("ERROR: ")
        elif _NAME.fullmatch(text):
            self.names.setdefault(step, text)
        elif re.fullmatch(r"(DONE \S+|CACHED)", text):
            self._tails.pop(step, None)

    def _unnumbered(self, line: str) -> None:
        if line.strip():
            self._rest.append(line)
        if line.startswith("ERROR: ") and not self.error:
            self.error = line.removeprefix("ERROR: ")
