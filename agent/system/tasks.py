"""Task groups that raise one exception, and blocking work in threads that can be cancelled."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """`asyncio.TaskGroup` that raises its first failure instead of an `ExceptionGroup`.

    Callers handle one error; the further ones usually have the same cause.
    """
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


class StoppedError(Exception):
    """Raised inside the work: its caller was cancelled."""


class Stop(threading.Event):
    """Cancellation flag that blocking work checks between its steps."""

    def check(self) -> None:
        """Raise `StoppedError` if cancellation was requested."""
        if self.is_set():
            raise StoppedError


async def in_thread(threads: Executor, work: Callable[[Stop], T]) -> T:
    """Run `work` in the pool.

    When cancelled, it requests the work to stop and waits until it has, so that the caller can
    remove files that the work was writing.
    """
    stop = Stop()
    running = asyncio.get_running_loop().run_in_executor(threads, work, stop)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue
        if not running.cancelled():
            running.exception()  # retrieved: it stopped on request, or nobody needs it
        raise
