"""Locks between processes: one file each, freed by the kernel whatever happens."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

#: Seconds between tries; a thread that blocks in `flock` could not be cancelled.
_FIRST_WAIT: Final = 0.01
_LONGEST_WAIT: Final = 0.25


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock; waits for other tasks and other processes. The file stays."""
    descriptor = _open(path)
    try:
        wait = _FIRST_WAIT
        while not take(descriptor):
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT, wait * 2)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock if nobody else does; says whether."""
    descriptor = _open(path)
    try:
        yield take(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def take(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file if nobody else does; says whether. Closing it gives the lock back."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
