"""How an attempt ended: a closed union, to be matched exhaustively."""

from dataclasses import dataclass
from typing import ClassVar

from agent.model.cause import Cause
from agent.model.phase import Phase


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
    """The machine was taken away."""

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
    """Policy forbade it; nothing ran."""

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


def phase_of(outcome: Outcome) -> Phase:
    """The terminal phase an outcome leads to."""
    return outcome.phase


def exit_code_of(outcome: Outcome) -> int | None:
    """The job's own exit code, where it had one."""
    match outcome:
        case Succeeded():
            return 0
        case Failed(exit_code=code) | Stopped(exit_code=code):
            return code
        case _:
            return None
