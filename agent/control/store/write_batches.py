"""Batches of writes: those that wait at the same time share a transaction."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, Final

from agent.control.store.tx import Turn, Tx
from agent.model.errors import LaunchError

#: Writes that may wait, urgent ones aside, before further ones are refused: a longer queue would
#: hold writes whose callers have already given up.
_MOST_WAITING: Final = 512
#: Most writes of one batch: those that come meanwhile wait for all of them.
_MOST: Final = 64


class OverloadedError(LaunchError):
    """More is asked of the server than it can do; nothing of this was done."""

    code = "OVERLOADED"

    def __init__(self) -> None:
        super().__init__("The server has too much to do now.", hint="Try again in a second.")


@dataclass(eq=False, slots=True)
class Write:
    """A write that waits, and then what came of it; its caller awaits `future`."""

    work: Callable[[Tx], Any]
    future: asyncio.Future[Any]
    #: Of the caller, which has its `READ_BUDGET`.
    context: Context = field(default_factory=copy_context)
    result: Any = None
    error: BaseException | None = None
    topics: Iterable[str] = ()

    def run(self, tx: Tx) -> None:
        """Run the work, again after a rollback; raises what the work raises."""
        self.error = None
        self.result = self.context.run(self.work, tx)
        self.topics = tx.topics

    def fail(self, error: BaseException) -> None:
        """Record the error, which the caller gets; it has nothing to notify."""
        self.error, self.topics = error, ()

    def complete(self, publish: Callable[[Iterable[str]], None]) -> None:
        """After the commit: notify, also where the caller was cancelled, and answer."""
        publish(self.topics)
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Waiting:
    """The writes that wait, urgent ones before others."""

    def __init__(self) -> None:
        self._urgent: deque[Write] = deque()
        self._others: deque[Write] = deque()

    def add(self, one: Write, turn: Turn) -> None:
        """Append to the queue of its turn.

        Raises:
            OverloadedError: too many wait, and this one is not urgent.
        """
        if turn is Turn.URGENT:
            self._urgent.append(one)
        elif len(self._others) < _MOST_WAITING:
            self._others.append(one)
        else:
            raise OverloadedError

    def next(self) -> list[Write]:
        """Take the next batch; empty when none waits."""
        batch: list[Write] = []
        for waiting in (self._urgent, self._others):
            while waiting and len(batch) < _MOST:
                batch.append(waiting.popleft())
        return batch
