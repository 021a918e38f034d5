"""Cancelling attempts: why, and how it reaches a running stage.

A stop request and a lost lease are the only two signals sent from the control plane to an attempt.
Both reach it as a `CancelReason`; a started job is stopped in `agent.pipeline.watch`. A stage that
may simply be abandoned runs under `Cancellation.guard`; one that must not be cut (a start, a stop)
checks for reasons between its steps.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from enum import IntEnum
from typing import Any, Final, TypeVar

from agent.model.protocol import LeaseStatus
from agent.system.tasks import cancel_task

Result = TypeVar("Result")


class CancelReason(IntEnum):
    """Why an attempt should not go on; a greater value takes precedence."""

    #: The agent shuts down: release the item to its queue unless it was permitted.
    RELEASE = 1
    #: Somebody asked for the item to be stopped.
    STOP = 2
    #: The agent shuts down and stops its jobs.
    ABORT = 3
    #: The agent shuts down; what runs goes on, for its next process to adopt.
    DETACH = 4
    #: Another agent owns the attempt: stop, and touch nothing.
    FENCED = 5


#: What the control plane's answers mean for the attempt.
CANCEL_REASONS: Final[Mapping[LeaseStatus, CancelReason]] = {
    LeaseStatus.STOP: CancelReason.STOP,
    LeaseStatus.FENCED: CancelReason.FENCED,
}
#: Before the permit nothing has run: every reason ends the stage.
ANY: Final = frozenset(CancelReason)
#: While the agent waits for the permit's answer, a user's stop waits for the answer.
WHILE_PERMITTING: Final = ANY - {CancelReason.STOP}
#: The outcome is known and is being delivered.
WHILE_REPORTING: Final = frozenset({CancelReason.DETACH, CancelReason.FENCED})


class AttemptCancelledError(Exception):
    """A stage was abandoned; not a failure, hence outside the error tree."""

    def __init__(self, reason: CancelReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Cancellation:
    """Reasons that have reached one attempt; they only accumulate."""

    def __init__(self) -> None:
        self._reasons: set[CancelReason] = set()
        self._changed = asyncio.Event()

    def send(self, reason: CancelReason) -> None:
        """Add a reason; repeating one has no effect."""
        if reason not in self._reasons:
            self._reasons.add(reason)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def strongest(self, among: frozenset[CancelReason] = ANY) -> CancelReason | None:
        """The strongest reason so far."""
        return max(self._reasons & among, default=None)

    async def wait(self, among: frozenset[CancelReason] = ANY) -> CancelReason:
        """Wait for a reason."""
        while (reason := self.strongest(among)) is None:
            await self._changed.wait()
        return reason

    def check(self, among: frozenset[CancelReason] = ANY) -> None:
        """Raise `AttemptCancelledError` if there is a reason."""
        reason = self.strongest(among)
        if reason is not None:
            raise AttemptCancelledError(reason)

    async def guard(
        self,
        work: Coroutine[Any, Any, Result],
        among: frozenset[CancelReason] = ANY,
        detach_delay: float = 0.0,
    ) -> Result:
        """Run `work` unless a reason comes first.

        On DETACH the work gets `detach_delay` more seconds.

        Raises:
            AttemptCancelledError: the work was cancelled, and has ended.
        """
        task = asyncio.ensure_future(work)
        cancelled = asyncio.ensure_future(self.wait(among))
        try:
            await asyncio.wait({task, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if detach_delay and not task.done() and cancelled.result() is CancelReason.DETACH:
                await asyncio.wait({task}, timeout=detach_delay)
            if not task.done():
                raise AttemptCancelledError(cancelled.result())
        finally:
            await cancel_task(cancelled)
            if not task.done():
                await cancel_task(task)
        return task.result()
