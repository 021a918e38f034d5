"""Task groups that raise one exception, cancelling tasks, and blocking work in threads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog

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


async def cancel_task(task: asyncio.Future[Any] | None) -> None:
    """Cancel and wait for the end; an exception that was not retrieved is logged."""
    if task is None:
        return
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        structlog.get_logger().error("a cancelled task failed", exc_info=error)


async def race(work: Awaitable[T], *others: Awaitable[object]) -> T | None:
    """The result of `work`, or `None` when one of the others ends first.

    On return every awaitable has ended or was cancelled.
    """
    task = asyncio.ensure_future(work)
    rivals = [asyncio.ensure_future(other) for other in others]
    try:
        await asyncio.wait({task, *rivals}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for rival in rivals:
            await cancel_task(rival)
        if not task.done():
            await cancel_task(task)
