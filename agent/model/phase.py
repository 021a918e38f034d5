"""The phases of an item, the transitions between them, the words for users, and outcomes.

The store and the wire use the names of `Phase`; pages, the command line and messages show
`Phase.word`. ``PERMITTED`` is the deciding point: before it nothing has run and an item may
go back to its queue; after it nothing runs again except as a new attempt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from agent.model.cause import Cause


class Phase(StrEnum):
    """How far an item is; see `TRANSITIONS`. Not its `state`, which is a word of W&B's."""

    QUEUED = "QUEUED"
    LEASED = "LEASED"
    PREPARING = "PREPARING"
    PERMITTED = "PERMITTED"
    STARTED = "STARTED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    PREEMPTED = "PREEMPTED"
    LOST = "LOST"
    REFUSED = "REFUSED"
    ERRORED = "ERRORED"

    @property
    def word(self) -> str:
        """The word that users see; `docs/glossary.md` has the same table."""
        return _WORDS[self]


#: `leased` and `preparing` are one to users: an agent has the item, and nothing runs yet.
_WORDS: Final[Mapping[Phase, str]] = {
    Phase.QUEUED: "waiting",
    Phase.LEASED: "preparing",
    Phase.PREPARING: "preparing",
    Phase.PERMITTED: "pending",
    Phase.STARTED: "running",
    Phase.SUCCEEDED: "succeeded",
    Phase.FAILED: "failed",
    Phase.STOPPED: "stopped",
    Phase.PREEMPTED: "preempted",
    Phase.LOST: "lost",
    Phase.REFUSED: "refused",
    Phase.ERRORED: "error",
}

#: Every word once, in the order of an item's life.
PHASE_WORDS: Final = tuple(dict.fromkeys(_WORDS.values()))


def phases_named(text: str) -> tuple[Phase, ...]:
    """The phases that a user means by a word of `PHASE_WORDS` or by a name of `Phase`.

    Capital letters do not matter. Empty when it is neither.
    """
    wanted = text.lower()
    shown = tuple(phase for phase in Phase if phase.word == wanted)
    return shown or tuple(phase for phase in Phase if phase.value.lower() == wanted)


TERMINAL: Final = frozenset(
    {
        Phase.SUCCEEDED,
        Phase.FAILED,
        Phase.STOPPED,
        Phase.PREEMPTED,
        Phase.LOST,
        Phase.REFUSED,
        Phase.ERRORED,
    }
)

#: Held by an agent, nothing has run: a lost lease puts the item back on its queue.
UNSTARTED_HELD: Final = frozenset({Phase.LEASED, Phase.PREPARING})

#: Something may be running: a lost lease must never run it again.
MAY_RUN: Final = frozenset({Phase.PERMITTED, Phase.STARTED})

HELD: Final = UNSTARTED_HELD | MAY_RUN

_BEFORE_START: Final = frozenset({Phase.STOPPED, Phase.REFUSED, Phase.ERRORED})

#: A transition from a terminal phase back to QUEUED opens a new attempt.
TRANSITIONS: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.QUEUED: frozenset({Phase.LEASED}) | _BEFORE_START,
    Phase.LEASED: frozenset({Phase.QUEUED, Phase.PREPARING, Phase.LOST}) | _BEFORE_START,
    Phase.PREPARING: frozenset({Phase.QUEUED, Phase.PERMITTED, Phase.LOST}) | _BEFORE_START,
    Phase.PERMITTED: frozenset({Phase.STARTED}) | (TERMINAL - {Phase.REFUSED}),
    Phase.STARTED: TERMINAL - {Phase.REFUSED},
    Phase.SUCCEEDED: frozenset(),
    **dict.fromkeys(TERMINAL - {Phase.SUCCEEDED}, frozenset({Phase.QUEUED})),
}


def may_follow(before: Phase, after: Phase) -> bool:
    """Whether the table has this transition; staying in a phase is always allowed."""
    return before is after or after in TRANSITIONS[before]


def wandb_state(phase: Phase) -> str:
    """The item state that W&B's clients know for a phase.

    They know PENDING, LEASED, CLAIMED and FAILED; a finished item stays CLAIMED for them.
    """
    match phase:
        case Phase.QUEUED:
            return "PENDING"
        case Phase.LEASED:
            return "LEASED"
        case Phase.REFUSED | Phase.ERRORED | Phase.LOST:
            return "FAILED"
        case _:
            return "CLAIMED"


# ------------------------------------------------------------------ outcomes


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Exit code 0."""

    phase: ClassVar[Phase] = Phase.SUCCEEDED
    cause: Cause = Cause.SUCCEEDED
    message: str = "exit code 0"


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ran and failed: exit code, out of memory, deadline, signal."""

    phase: ClassVar[Phase] = Phase.FAILED
    cause: Cause
    message: str
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """A user or an operator asked for it."""

    phase: ClassVar[Phase] = Phase.STOPPED
    message: str
    cause: Cause = Cause.STOPPED_BY_USER
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Preempted:
    """The machine was reclaimed while the job ran."""

    phase: ClassVar[Phase] = Phase.PREEMPTED
    message: str
    cause: Cause = Cause.PREEMPTED


@dataclass(frozen=True, slots=True)
class Lost:
    """It may have run; how it ended is unknown."""

    phase: ClassVar[Phase] = Phase.LOST
    cause: Cause
    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Its specification is not valid or not allowed; nothing ran."""

    phase: ClassVar[Phase] = Phase.REFUSED
    cause: Cause
    message: str


@dataclass(frozen=True, slots=True)
class Errored:
    """The launcher could not run it."""

    phase: ClassVar[Phase] = Phase.ERRORED
    cause: Cause
    message: str


Outcome = Succeeded | Failed | Stopped | Preempted | Lost | Refused | Errored


def exit_code_of(outcome: Outcome) -> int | None:
    """The job's own exit code, where it had one."""
    match outcome:
        case Succeeded():
            return 0
        case Failed(exit_code=code) | Stopped(exit_code=code):
            return code
        case _:
            return None
