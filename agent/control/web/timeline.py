"""An item's way from its queue to its end, as a short row of steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from agent.control.store.records import EventRecord
from agent.control.web.filters import tone
from agent.model.phase import TERMINAL, Phase

_WAY: Final = (Phase.QUEUED, Phase.LEASED, Phase.PREPARING, Phase.PERMITTED, Phase.STARTED)


@dataclass(frozen=True, slots=True)
class Step:
    """One station; `at` is when it was reached in the latest attempt."""

    text: str
    at: datetime | None
    #: `done`, `now`, `ahead`, or `end` for the phase that an item ended in.
    kind: Literal["done", "now", "ahead", "end"]
    tone: str


def steps(phase: Phase, events: Sequence[EventRecord]) -> tuple[Step, ...]:
    """The stations of the latest attempt; `events` is the item's history, oldest first."""
    reached = _reached(events)
    on_the_way = tuple(_step(station, phase, reached) for station in _WAY)
    return (*on_the_way, _end(phase, reached))


def _reached(events: Sequence[EventRecord]) -> dict[Phase, datetime]:
    """When each phase began, since the item was last put on its queue."""
    reached: dict[Phase, datetime] = {}
    previous: Phase | None = None
    for event in events:
        if event.phase is Phase.QUEUED and previous is not Phase.QUEUED:
            reached = {}
        reached.setdefault(event.phase, event.at)
        previous = event.phase
    return reached


def _step(station: Phase, phase: Phase, reached: dict[Phase, datetime]) -> Step:
    at = reached.get(station)
    if station is phase:
        return Step(station.word, at, "now", tone(station))
    passed = phase in _WAY and _WAY.index(station) < _WAY.index(phase)
    return Step(station.word, at, "done" if at or passed else "ahead", "idle")


def _end(phase: Phase, reached: dict[Phase, datetime]) -> Step:
    if phase in TERMINAL:
        return Step(phase.word, reached.get(phase), "end", tone(phase))
    return Step("ended", None, "ahead", "idle")
