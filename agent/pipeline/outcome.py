"""From how a workload ended, or how the agent failed, to the outcome of the attempt. Pure."""

import signal
from enum import Enum, auto
from typing import Final

from agent.config.execution import PendingTimeouts
from agent.model.cause import WAITING, Cause
from agent.model.errors import (
    ConfigError,
    InvalidInputError,
    JobError,
    LaunchError,
    PolicyError,
)
from agent.model.phase import (
    Errored,
    Failed,
    Lost,
    Outcome,
    Preempted,
    Refused,
    Stopped,
    Succeeded,
)
from agent.model.units import format_duration
from agent.pipeline.until_answered import TRANSIENT
from agent.ports.runner import Ending, Pending
from agent.system.machine import is_disk_full

#: It may have run, and its ending is unknown.
_LOST: Final = frozenset(
    {Cause.LOST_AGENT, Cause.LOST_WORKLOAD, Cause.LOST_ENGINE, Cause.LOST_NODE}
)
#: The job ran, and ended like this.
_FAILED: Final = frozenset(
    {
        Cause.RUN_OUT_OF_MEMORY,
        Cause.RUN_EVICTED,
        Cause.RUN_EXIT_CODE,
        Cause.RUN_DEADLINE,
        Cause.DISK_FULL,
    }
)
#: As shells and engines report SIGKILL.
_KILLED: Final = 128 + signal.SIGKILL


class StoppedBy(Enum):
    """Why the agent stopped the workload."""

    USER = auto()
    AGENT = auto()
    DEADLINE = auto()
    PENDING_TIMEOUT = auto()


def outcome_of(
    ending: Ending,
    stopped_by: StoppedBy | None,
    limit: float | None,
    pending: Pending | None = None,
) -> Outcome:
    """How the attempt ended.

    `limit`: seconds of the time limit that ended it. `pending`: what it waited for then.
    """
    code = ending.exit_code
    match stopped_by:
        case StoppedBy.USER:
            return Stopped(f"stopped on request; {_stop_text(ending)}", exit_code=code)
        case StoppedBy.AGENT:
            message = f"the agent was asked to stop its jobs; {_stop_text(ending)}"
            return Stopped(message, Cause.STOPPED_BY_AGENT, code)
        case StoppedBy.DEADLINE:
            allowed = format_duration(limit or 0.0)
            message = f"stopped after its timeout of {allowed}; {_stop_text(ending)}"
            return Failed(Cause.RUN_DEADLINE, message, code)
        case StoppedBy.PENDING_TIMEOUT:
            assert pending is not None  # noqa: S101  # the limit was for waiting
            return _given_up(pending, limit or 0.0)
        case None:
            return _by_itself(ending)


def _given_up(pending: Pending, limit: float) -> Outcome:
    waits = pending.cause in WAITING
    message = pending.message
    if not pending.permanent:
        key = f"`pending_timeout.{PendingTimeouts.key(pending.cause)}` of the agent"
        message = f"it did not run within {format_duration(limit)} ({key}): {message}"
    if pending.cause in _LOST:
        return Lost(pending.cause, message)
    return Errored(Cause.SCHEDULE_TIMEOUT if waits else pending.cause, message)


def _by_itself(ending: Ending) -> Outcome:
    if ending.cause is None:
        return _by_exit_code(ending)
    if ending.cause is Cause.PREEMPTED:
        return Preempted(ending.message)
    if ending.cause in _LOST:
        return Lost(ending.cause, ending.message)
    if ending.cause in _FAILED:
        message = f"{ending.message}; {_exit_text(ending)}"
        return Failed(ending.cause, message, ending.exit_code)
    return Errored(ending.cause, ending.message)


def _by_exit_code(ending: Ending) -> Outcome:
    code = ending.exit_code
    if code == 0:
        return Succeeded()
    more = f"; {ending.message}" if ending.message else ""
    if ending.signal is not None:
        return Failed(Cause.RUN_SIGNAL, f"ended by signal {ending.signal}{more}", code)
    if code is None:
        return Lost(Cause.LOST_WORKLOAD, f"it ended, and its exit code is not known{more}")
    return Failed(Cause.RUN_EXIT_CODE, f"exit code {code}{more}", code)


def _stop_text(ending: Ending) -> str:
    killed = ending.signal == signal.SIGKILL or ending.exit_code == _KILLED
    prefix = "it did not end on SIGTERM within its grace and was killed, " if killed else ""
    return prefix + _exit_text(ending)


def _exit_text(ending: Ending) -> str:
    if ending.exit_code is not None:
        return f"exit code {ending.exit_code}"
    return "no exit code" if ending.signal is None else f"signal {ending.signal}"


def outcome_of_failure(error: Exception, reference: str) -> Outcome:
    """How an attempt ends that failed in the agent.

    `reference` finds the traceback in the agent's log; it is shown for unexpected errors only.
    """
    match error:
        case PolicyError(cause=cause):
            return Refused(cause, str(error))
        case JobError(cause=cause):
            return (Lost if cause in _LOST else Errored)(cause, str(error))
        case InvalidInputError() if not isinstance(error, ConfigError):
            return Refused(Cause.POLICY_SPEC, str(error))
        case LaunchError() if isinstance(error, TRANSIENT):
            return Errored(Cause.INTERNAL, f"the control plane failed: {error}")
        case OSError() if is_disk_full(error):
            where = f" ({error.filename})" if error.filename else ""
            return Errored(Cause.DISK_FULL, f"no space left on the agent's disk{where}")
        case _:
            kind = type(error).__name__
            message = f"{kind} in the agent; see reference {reference} in its log"
            return Errored(Cause.INTERNAL, message)


def is_expected(error: Exception) -> bool:
    """Whether the outcome's message explains it, so that no traceback is needed."""
    if isinstance(error, OSError):
        return is_disk_full(error)
    return isinstance(error, (JobError, InvalidInputError, *TRANSIENT))
