"""The progress of an item, from its queue to its end, as a row of steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from agent.control.store.records import EventRecord
from agent.control.web.filters import tone
from agent.model.phase import TERMINAL, Phase

#: The phase that stands for each step; `LEASED` and `PREPARING` are one step, "preparing".
_STEPS: Final = (Phase.QUEUED, Phase.PREPARING, Phase.PERMITTED, Phase.STARTED)
_WORDS: Final = tuple(phase.word for phase in _STEPS)


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `at` is when the latest attempt reached it."""

    text: str
    at: datetime | None
    #: `end` is the phase that an item ended in.
    kind: Literal["done", "now", "ahead", "end"]
    tone: str


def steps(phase: Phase, events: Sequence[EventRecord]) -> tuple[Step, ...]:
    """The steps of the latest attempt; `events` is the item's history, oldest first."""
    reached = _reached(events)
    if phase in TERMINAL:
        end = Step(phase.word, reached.get(phase.word), "end", tone(phase))
    else:
        end = Step("ended", None, "ahead", "idle")
    return (*(_step(each, phase, reached) for each in _STEPS), end)


def _reached(events: Sequence[EventRecord]) -> dict[str, datetime]:
    """When each word became true, since the item was last put on its queue."""
    reached: dict[str, datetime] = {}
    previous: Phase | None = None
    for event in events:
        if event.phase is Phase.QUEUED and previous is not Phase.QUEUED:
            reached = {}
        reached.setdefault(event.phase.word, event.at)
        previous = event.phase
    return reached


def _step(step: Phase, phase: Phase, reached: dict[str, datetime]) -> Step:
    word, at = step.word, reached.get(step.word)
    if word == phase.word:
        return Step(word, at, "now", tone(step))
    passed = phase.word in _WORDS and _WORDS.index(word) < _WORDS.index(phase.word)
    return Step(word, at, "done" if at or passed else "ahead", "idle")
