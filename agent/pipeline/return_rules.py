"""Failures before the start permit that are not the job's own.

Such a failure ends no job: the item goes back to its queue. A failure of the backend is also told
to the claim loop, which claims nothing for it until it answers again.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from agent.model.cause import Cause
from agent.model.errors import (
    JobError,
    PolicyError,
    UnavailableError,
    UnreachableError,
)
from agent.pipeline.retry import TRANSIENT
from agent.system.machine import is_disk_full

#: The job may need more space than there is, or name what the control plane cannot serve. The
#: third such failure in one agent process ends the item: the job is taken to be the cause.
_MOST_RETURNS: Final = 3
#: Seconds for which an item is kept back at its second return; each further one doubles them.
_FIRST_DELAY: Final = 5.0
_LONGEST_DELAY: Final = 300.0
#: Failures of the backend itself.
_CERTAIN: Final = frozenset(
    {Cause.LOST_ENGINE, Cause.LOST_NODE, Cause.LOST_WORKLOAD, Cause.DISK_FULL}
)
#: Causes that may be the job's or the backend's: the backend is asked.
_POSSIBLE: Final = frozenset(
    {
        Cause.BUILD_REQUIREMENTS,
        Cause.BUILD_DOCKERFILE,
        Cause.BUILD_TIMEOUT,
        Cause.BUILD_UNAVAILABLE,
        Cause.BUILD_FAILED,
        Cause.IMAGE_UNAVAILABLE,
        Cause.START_FAILED,
        Cause.INTERNAL,
    }
)


class BackendState(Protocol):
    """Whether the backend of each resource answers, shared by attempts and the claim loop."""

    def failed(self, resource: str, error: UnavailableError) -> None:
        """Note that an attempt saw the backend fail: nothing is claimed for it until it answers."""

    def worked(self, resource: str) -> None:
        """Note that an attempt has started a job on the backend."""

    async def check(self, resource: str) -> UnavailableError | None:
        """Ask the backend and its builder now; a failure also counts as `failed`."""


@dataclass(frozen=True, slots=True)
class ReturnReason:
    """Why an item is returned."""

    #: For users, with a full stop.
    message: str
    #: The failure of the backend; `None` when the control plane failed.
    backend: UnavailableError | None
    #: The job itself may be the reason.
    perhaps_own: bool


@dataclass(frozen=True, slots=True)
class Returns:
    """How often this process has returned an attempt."""

    count: int = 0
    #: Those for which the job itself may have been the reason.
    perhaps_own: int = 0

    def and_one_for(self, reason: ReturnReason) -> "Returns":
        """After one more."""
        return Returns(self.count + 1, self.perhaps_own + reason.perhaps_own)

    @property
    def delay(self) -> float:
        """Seconds for which the item is kept back at the next one.

        None at first, since another agent may be well.
        """
        if not self.count:
            return 0.0
        return min(_FIRST_DELAY * 2.0 ** (self.count - 1), _LONGEST_DELAY)


async def return_reason(
    error: Exception, resource: str, state: BackendState, returns: Returns
) -> ReturnReason | None:
    """Why an attempt that failed before its permit is returned; `None`: the failure is its own."""
    found = await _reason_of(error, resource, state)
    if found is not None and found.perhaps_own and returns.perhaps_own + 1 >= _MOST_RETURNS:
        return None
    return found


async def _reason_of(error: Exception, resource: str, state: BackendState) -> ReturnReason | None:
    if isinstance(error, TRANSIENT):
        # A control plane that cannot be reached is not the job's fault, however often.
        perhaps_own = not isinstance(error, UnreachableError)
        return ReturnReason(f"The control plane failed: {error.message}", None, perhaps_own)
    failure = await _failure_of_backend(error, resource, state)
    if failure is None:
        return None
    return ReturnReason(failure.message, failure, failure.cause is Cause.DISK_FULL)


async def _failure_of_backend(
    error: Exception, resource: str, state: BackendState
) -> UnavailableError | None:
    match error:
        case UnavailableError():
            return error
        case PolicyError():
            return None
        case JobError(cause=cause) if cause in _CERTAIN:
            return UnavailableError(cause, error.message, hint=error.hint)
        case JobError(cause=cause) if cause in _POSSIBLE:
            return await state.check(resource)
        case OSError() if is_disk_full(error):
            message = f"No space is left on the agent's disk ({error})."
            return UnavailableError(Cause.DISK_FULL, message)
        case _:
            return None
