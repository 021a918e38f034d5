"""Progress of several jobs at once: live lines on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self

from agent.cli.output import safe
from agent.model.phase import TERMINAL, Phase
from agent.model.units import format_duration

Json = dict[str, Any]

STAGES: Final = ("resolve", "build", "start", "run")
_BY_ACTIVITY: Final = {
    "fetching the source": "resolve",
    "preparing the image": "build",
    "starting": "start",
    "running": "run",
}
_BY_PHASE: Final = {
    Phase.LEASED: "resolve",
    Phase.PREPARING: "resolve",
    Phase.PERMITTED: "start",
    Phase.STARTED: "run",
}


def stage_of(item: Json) -> str | None:
    """Which of the stages an item is in; `None` before the first and after the last."""
    phase = Phase(item["phase"])
    if phase in TERMINAL or phase is Phase.QUEUED:
        return None
    if phase is Phase.STARTED:
        return "run"
    return _BY_ACTIVITY.get(item["activity"] or "", _BY_PHASE[phase])


class View(Protocol):
    """Takes what happens; a context manager around all of it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def progress(self, name: str, item: Json) -> None:
        """An item changed."""

    def output(self, name: str, channel: str, piece: bytes) -> None:
        """An item wrote something."""


class Lines:
    """Cuts what a job writes into lines.

    A carriage return ends a line of the job's own, whose progress people want to see; of
    what git and builds overwrite only the last state is shown.
    """

    def __init__(self) -> None:
        self._rest: dict[tuple[str, str], bytes] = {}

    def cut(self, name: str, channel: str, piece: bytes) -> list[str]:
        """Whole lines, safe to be shown."""
        data = self._rest.get((name, channel), b"") + piece
        if channel == "job":
            data = data.replace(b"\r", b"\n")
        *whole, rest = data.split(b"\n")
        self._rest[name, channel] = rest[-4096:]
        last = (line.rstrip(b"\r").rpartition(b"\r")[2] for line in whole)
        texts = (safe(line.decode(errors="replace")).strip() for line in last)
        return [text for text in texts if text]


class PlainView:
    """One line for each change and each line of output."""

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max((len(name) for name in names), default=0)
        self._lines = Lines()
        self._last: dict[str, str] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def progress(self, name: str, item: Json) -> None:
        """See `View`."""
        word = stage_of(item) or str(item["phase"]).lower()
        if self._last.get(name) != word:
            self._last[name] = word
            passed = format_duration(time.monotonic() - self._began)
            print(f"{passed:>8}  {name:<{self._width}}  {word}", flush=True)

    def output(self, name: str, channel: str, piece: bytes) -> None:
        """See `View`."""
        mark = "|" if channel == "job" else ":"
        for line in self._lines.cut(name, channel, piece):
            print(f"{'':>8}  {name:<{self._width}}  {mark} {line}", flush=True)


def make_view(names: Sequence[str], *, is_terminal: bool) -> View:
    """The view for where it is shown."""
    if not is_terminal:
        return PlainView(names)
    from agent.cli.demo.live import LiveView

    return LiveView(names)
