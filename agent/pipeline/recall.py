"""The only two things that travel backward: a stop request and a lost lease.

Both reach an attempt as causes of cancellation. A stage that may simply be abandoned runs
under `Recalls.guard`; one that must not be cut (a start, a stop) looks at the causes
between its steps.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from enum import IntEnum
from typing import Any, Final, TypeVar

from agent.model.protocol import LeaseStatus
from agent.pipeline.tasks import end

Result = TypeVar("Result")


class Recall(IntEnum):
    """Why an attempt should not go on; the greater, the stronger."""

    #: The agent leaves: give the item back unless it was permitted.
    HAND_BACK = 1
    #: Somebody asked for the item to be stopped.
    STOP = 2
    #: The agent leaves and takes its jobs with it.
    ABORT = 3
    #: The agent leaves; what runs goes on, for its next process to adopt.
    DETACH = 4
    #: Somebody else owns the attempt: stop, and touch nothing.
    FENCED = 5


#: What the queue's answers mean for the attempt.
RECALLS: Final[Mapping[LeaseStatus, Recall]] = {
    LeaseStatus.STOP: Recall.STOP,
    LeaseStatus.FENCED: Recall.FENCED,
}
#: Before the permit nothing has run: every cause ends the stage.
ANY: Final = frozenset(Recall)
#: With the permit asked for and unanswered, a user's stop waits for the answer.
WHILE_PERMITTING: Final = ANY - {Recall.STOP}
#: The outcome is known and wants to be delivered.
WHILE_CONCLUDING: Final = frozenset({Recall.DETACH, Recall.FENCED})


class RecalledError(Exception):
    """A stage was abandoned; not a failure, hence outside the error tree."""

    def __init__(self, cause: Recall) -> None:
        super().__init__(cause.name)
        self.cause = cause


class Recalls:
    """Causes that have reached one attempt; they only accumulate."""

    def __init__(self) -> None:
        self._causes: set[Recall] = set()
        self._changed = asyncio.Event()

    def send(self, cause: Recall) -> None:
        """Deliver a cause; twice is once."""
        if cause not in self._causes:
            self._causes.add(cause)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def strongest(self, among: frozenset[Recall] = ANY) -> Recall | None:
        """The strongest cause so far."""
        return max(self._causes & among, default=None)

    async def wait(self, among: frozenset[Recall] = ANY) -> Recall:
        """Wait for a cause."""
        while (cause := self.strongest(among)) is None:
            await self._changed.wait()
        return cause

    def check(self, among: frozenset[Recall] = ANY) -> None:
        """Raise `RecalledError` when a cause is there."""
        cause = self.strongest(among)
        if cause is not None:
            raise RecalledError(cause)

    async def guard(
        self,
        work: Coroutine[Any, Any, Result],
        among: frozenset[Recall] = ANY,
        mercy: float = 0.0,
    ) -> Result:
        """Run `work` unless a cause comes first; `mercy` (seconds) when it only detaches.

        Raises:
            RecalledError: the work was cancelled, and has ended.
        """
        task = asyncio.ensure_future(work)
        alarm = asyncio.ensure_future(self.wait(among))
        try:
            await asyncio.wait({task, alarm}, return_when=asyncio.FIRST_COMPLETED)
            if mercy and not task.done() and alarm.result() is Recall.DETACH:
                await asyncio.wait({task}, timeout=mercy)
            if not task.done():
                raise RecalledError(alarm.result())
        finally:
            await end(alarm)
            if not task.done():
                await end(task)
        return task.result()
