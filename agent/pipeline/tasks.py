"""Ending tasks that one owns."""

import asyncio
from typing import Any

import structlog


async def end(task: asyncio.Future[Any] | None) -> None:
    """Cancel, and wait until it has ended; a failure that nobody asked for is logged."""
    if task is None:
        return
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        structlog.get_logger().error("a task of an attempt failed", exc_info=error)
