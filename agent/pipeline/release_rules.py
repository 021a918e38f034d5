"""Which failures before the start permit release the item to its queue.

They are those that are not the job's own; they end no job. A failure of the backend is also told
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
from agent.pipeline.until_answered import TRANSIENT
from agent.system.machine import is_disk_full

#: Failures that may be the job's own (it needs more space than there is, or names what the control
#: plane cannot serve): the third one in one agent process ends the item instead of releasing it.
_MAX_RELEASES: Final = 3
#: Seconds for which an item is kept back at its second return; each further one doubles them.
_FIRST_DELAY: Final = 5.0
_MAX_DELAY_SECONDS: Final = 300.0
#: Failures of the backend itself.
_OF_BACKEND: Final = frozenset(
    {Cause.LOST_ENGINE, Cause.LOST_NODE, Cause.LOST_WORKLOAD, Cause.DISK_FULL}
)
#: Failures of the backend that the job itself may have caused: `BUILD_FAILED` is that of a build's
#: pod that was evicted, or whose daemon ended.
_MAY_BE_THE_JOBS: Final = frozenset({Cause.DISK_FULL, Cause.BUILD_FAILED})
#: Causes that may be the job's or the backend's: the backend is asked.
_OF_JOB_OR_BACKEND: Final = frozenset(
    {
        Cause.BUILD_REQUIREMENTS,
        Cause.BUILD_DOCKERFILE,
        Cause.BUILD_TIMEOUT,
        Cause.BUILD_UNAVAILABLE,
        Cause.BUILD_FAILED,
        Cause.BUILD_PUSH,
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
class ReleaseReason:
    """Why an item is released to its queue."""

    #: For users, with a full stop.
    message: str
    #: The failure of the backend; `None` when the control plane failed.
    backend: UnavailableError | None
    #: The job itself may be the reason.
    may_be_the_jobs_fault: bool


@dataclass(frozen=True, slots=True)
class Releases:
    """How often this process has released an attempt's item."""

    count: int = 0
    #: Those of them for which the job itself may have been the reason.
    may_be_the_jobs_fault: int = 0

    def and_one_for(self, reason: ReleaseReason) -> "Releases":
        """After one more."""
        return Releases(self.count + 1, self.may_be_the_jobs_fault + reason.may_be_the_jobs_fault)

    @property
    def delay(self) -> float:
        """Seconds for which the item cannot be claimed after its next release.

        0 at first, since another agent may be well.
        """
        if not self.count:
            return 0.0
        return min(_FIRST_DELAY * 2.0 ** (self.count - 1), _MAX_DELAY_SECONDS)


async def release_reason(
    error: Exception, resource: str, state: BackendState, releases: Releases
) -> ReleaseReason | None:
    """Why the item of an attempt that failed is released; `None`: the failure is the job's own."""
    found = await _reason_of(error, resource, state)
    if (
        found is not None
        and found.may_be_the_jobs_fault
        and releases.may_be_the_jobs_fault + 1 >= _MAX_RELEASES
    ):
        return None
    return found


async def _reason_of(error: Exception, resource: str, state: BackendState) -> ReleaseReason | None:
    if isinstance(error, TRANSIENT):
        # A control plane that cannot be reached is not the job's fault, however often.
        may_be_the_jobs_fault = not isinstance(error, UnreachableError)
        return ReleaseReason(
            f"The control plane failed: {error.message}", None, may_be_the_jobs_fault
        )
    failure = await _failure_of_backend(error, resource, state)
    if failure is None:
        return None
    return ReleaseReason(failure.message, failure, failure.cause in _MAY_BE_THE_JOBS)


async def _failure_of_backend(
    error: Exception, resource: str, state: BackendState
) -> UnavailableError | None:
    match error:
        case UnavailableError():
            return error
        case PolicyError():
            return None
        case JobError(cause=cause) if cause in _OF_BACKEND:
            return UnavailableError(cause, error.message, hint=error.hint)
        case JobError(cause=cause) if cause in _OF_JOB_OR_BACKEND:
            return await state.check(resource)
        case OSError() if is_disk_full(error):
            message = f"No space is left on the agent's disk ({error})."
            return UnavailableError(Cause.DISK_FULL, message)
        case _:
            return None
