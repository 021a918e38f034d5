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
from agent.pipeline.backoff import TRANSIENT
from agent.system.machine import is_disk_full

#: After so many returns by one process, the job is held to be the reason itself: it may need more
#: space than there is, or name something that the control plane cannot serve.
_MOST_RETURNS: Final = 3
#: Seconds for which an item is kept back at its second return; each further one doubles them.
_FIRST_DELAY: Final = 5.0
_LONGEST_DELAY: Final = 300.0
#: Failures of the backend itself.
_CERTAIN: Final = frozenset(
    {Cause.LOST_ENGINE, Cause.LOST_NODE, Cause.LOST_WORKLOAD, Cause.DISK_FULL}
)
#: Also how builds, pulls and creations fail whose backend stops answering in the middle.
_POSSIBLE: Final = frozenset(
    {
        Cause.BUILD_REQUIREMENTS,
        Cause.BUILD_DOCKERFILE,
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
        """An attempt has seen it fail: nothing is claimed for it until it answers again."""

    def worked(self, resource: str) -> None:
        """An attempt has prepared and started its job with it."""

    async def check(self, resource: str) -> UnavailableError | None:
        """Ask it now, and its builder; a failure also counts as `failed`."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an item is returned."""

    #: For users, with a full stop.
    message: str
    #: The failure of the backend; `None` when the control plane failed.
    backend: UnavailableError | None = None


async def trouble_in(
    error: Exception, resource: str, state: BackendState, returns: int
) -> Trouble | None:
    """Why an attempt that failed before its permit is returned; `None`: the failure is its own.

    `returns`: how often this process has returned it already.
    """
    last = returns + 1 >= _MOST_RETURNS
    if isinstance(error, TRANSIENT):
        # A control plane that cannot be reached is not the job's fault, however often.
        given_up = last and not isinstance(error, UnreachableError)
        return None if given_up else Trouble(f"The control plane failed: {error.message}")
    failure = await _failure_of_backend(error, resource, state)
    if failure is None or (last and failure.cause is Cause.DISK_FULL):
        return None
    return Trouble(failure.message, failure)


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


def delay_after(returns: int) -> float:
    """Seconds for which an item is kept back that was returned so often already.

    None at first, since another agent may be well.
    """
    return min(_FIRST_DELAY * 2.0 ** (returns - 1), _LONGEST_DELAY) if returns else 0.0
