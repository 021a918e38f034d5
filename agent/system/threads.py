"""Blocking work in a thread pool that cooperates with cancellation."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


class StoppedError(Exception):
    """Raised inside the work: its caller was cancelled."""


class Stop:
    """Cancellation flag that blocking work checks between its steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Request cancellation."""
        self._event.set()

    def check(self) -> None:
        """Return unless cancellation was requested.

        Raises:
            StoppedError: the caller was cancelled.
        """
        if self._event.is_set():
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
