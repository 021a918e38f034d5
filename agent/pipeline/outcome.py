"""Pure rules: from how a workload ended, or how we failed, to the outcome of the attempt."""

import signal
from enum import Enum, auto
from pathlib import Path
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import ConfigError, InvalidInputError, JobError, PolicyError
from agent.model.outcome import Errored, Failed, Lost, Outcome, Refused, Stopped, Succeeded
from agent.model.units import format_duration
from agent.ports.runner import Ending
from agent.system.machine import is_disk_full

#: What shells and engines answer for a command that cannot be executed or does not exist.
_CANNOT_EXECUTE: Final = frozenset({126, 127})
#: Causes that mean: it may have run, and nobody can say how it ended.
_LOST: Final = frozenset({Cause.LOST_AGENT, Cause.LOST_WORKLOAD, Cause.LOST_ENGINE})
#: As shells and engines report SIGKILL.
_KILLED: Final = 128 + signal.SIGKILL


class StoppedBy(Enum):
    """Who ended the workload, if we did."""

    USER = auto()
    AGENT = auto()
    DEADLINE = auto()


def outcome_of(ending: Ending, why: StoppedBy | None, timeout: float | None) -> Outcome:
    """How the attempt ended; `timeout` in seconds is only told."""
    code = ending.exit_code
    match why:
        case StoppedBy.USER:
            return Stopped(f"stopped on request; {_stopped(ending)}", exit_code=code)
        case StoppedBy.AGENT:
            message = f"the agent was told to stop its jobs; {_stopped(ending)}"
            return Stopped(message, Cause.STOPPED_BY_AGENT, code)
        case StoppedBy.DEADLINE:
            limit = format_duration(timeout or 0.0)
            message = f"stopped after its timeout of {limit}; {_stopped(ending)}"
            return Failed(Cause.RUN_DEADLINE, message, code)
        case None:
            return _by_itself(ending)


def _by_itself(ending: Ending) -> Outcome:
    code = ending.exit_code
    if ending.out_of_memory:
        message = f"killed because it used more memory than it was given; {_ended(ending)}"
        return Failed(Cause.RUN_OUT_OF_MEMORY, message, code)
    if ending.error:
        missing = code in _CANNOT_EXECUTE
        cause = Cause.START_ENTRYPOINT if missing else Cause.START_FAILED
        return Errored(cause, ending.error)
    if code == 0:
        return Succeeded()
    if ending.signal is not None:
        return Failed(Cause.RUN_SIGNAL, f"ended by signal {ending.signal}", code)
    if code is None:
        return Lost(Cause.LOST_WORKLOAD, "it ended, and its exit code is not known")
    return _with_exit_code(code, ending.full_disk)


def _with_exit_code(code: int, full_disk: Path | None) -> Failed:
    if full_disk is None:
        return Failed(Cause.RUN_EXIT_CODE, f"exit code {code}", code)
    message = f"exit code {code}, and no space was left on the disk of {full_disk}"
    return Failed(Cause.DISK_FULL, message, code)


def _stopped(ending: Ending) -> str:
    killed = ending.signal == signal.SIGKILL or ending.exit_code == _KILLED
    prefix = "it did not end on SIGTERM within its grace and was killed, " if killed else ""
    return prefix + _ended(ending)


def _ended(ending: Ending) -> str:
    if ending.exit_code is not None:
        return f"exit code {ending.exit_code}"
    return "no exit code" if ending.signal is None else f"signal {ending.signal}"


def outcome_of_failure(error: Exception, reference: str) -> Outcome:
    """How an attempt ends that we could not bring to run.

    `reference` finds the traceback in the agent's log; only failures that nobody foresaw
    show it.
    """
    match error:
        case PolicyError(cause=cause):
            return Refused(cause, str(error))
        case JobError(cause=cause) if cause in _LOST:
            return Lost(cause, str(error))
        case JobError(cause=cause):
            return Errored(cause, str(error))
        case InvalidInputError() if not isinstance(error, ConfigError):
            return Refused(Cause.POLICY_SPEC, str(error))
        case _:
            return _fault(error, reference)


def _fault(error: Exception, reference: str) -> Errored:
    if isinstance(error, OSError) and is_disk_full(error):
        where = f" ({error.filename})" if error.filename else ""
        return Errored(Cause.DISK_FULL, f"no space left on the agent's disk{where}")
    kind = type(error).__name__
    message = f"{kind} in the agent; its log tells more under reference {reference}"
    return Errored(Cause.INTERNAL, message)


def is_foreseen(error: Exception) -> bool:
    """Whether the outcome tells all there is to tell, so that no traceback is needed."""
    if isinstance(error, OSError):
        return is_disk_full(error)
    return isinstance(error, JobError | InvalidInputError)
