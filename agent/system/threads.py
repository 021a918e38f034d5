"""Blocking work in the bounded thread pool, with cancellation that it can notice."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


class StoppedError(Exception):
    """The work noticed that nobody waits for it any more."""


class Stop:
    """Asked by blocking work between its steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the work to end."""
        self._event.set()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            StoppedError: the caller was cancelled.
        """
        if self._event.is_set():
            raise StoppedError


async def in_thread(threads: Executor, work: Callable[[Stop], T]) -> T:
    """Run `work` in the pool.

    Cancelled, it asks the work to stop and waits until it has, so that the caller may
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
            running.exception()  # seen: it ended because we asked, or no longer matters
        raise
