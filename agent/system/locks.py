"""Locks between processes: `flock` on a file, released by the kernel however a process ends."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

#: Seconds between attempts. Polling, since a thread that blocks in `flock` cannot be cancelled.
_FIRST_WAIT: Final = 0.01
_MAX_WAIT_SECONDS: Final = 0.25


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock; waits for other tasks and processes. The file is not removed."""
    descriptor = _open(path)
    try:
        wait = _FIRST_WAIT
        while not try_lock(descriptor):
            await asyncio.sleep(wait)
            wait = min(_MAX_WAIT_SECONDS, wait * 2)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Take the lock if it is free, and hold it during the context; yields whether it was taken."""
    descriptor = _open(path)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting; returns whether it was free. Closing it unlocks."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
