"""Tasks that one owns: ended, or raced against each other."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import structlog

Result = TypeVar("Result")


async def end(task: asyncio.Future[Any] | None) -> None:
    """Cancel, and wait until it has ended; a failure that nobody asked for is logged."""
    if task is None:
        return
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        structlog.get_logger().error("a task of an attempt failed", exc_info=error)


async def unless(work: Awaitable[Result], *others: Awaitable[object]) -> Result | None:
    """The result of `work`, or `None` when one of the others ends first; none is left running."""
    task = asyncio.ensure_future(work)
    alarms = [asyncio.ensure_future(other) for other in others]
    try:
        await asyncio.wait({task, *alarms}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for alarm in alarms:
            await end(alarm)
        if not task.done():
            await end(task)
