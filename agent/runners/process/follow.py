"""Following a job's log file: chunk by chunk, to its last byte."""

import asyncio
import os
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from agent.ports.runner import LogPiece
from agent.runners.process.watch import Watch

_CHUNK: Final = 64 * 1024
#: Seconds between looks at a quiet file: short after output, longer in silence.
_SHORTEST: Final = 0.02
_LONGEST: Final = 0.2


async def follow(
    path: Path, offset: int, watch: Watch, threads: Executor
) -> AsyncGenerator[LogPiece, None]:
    """Yield the file from `offset` on until its writer has ended and all was read.

    A job that opens /dev/stdout for writing truncates its own log. What it writes from then
    on is given as if it followed.
    """
    loop = asyncio.get_running_loop()
    descriptor = await loop.run_in_executor(threads, _open, path)
    if descriptor is None:
        return
    try:
        pause, over, shift = _SHORTEST, False, 0
        while True:
            at = offset - shift
            # The size is in memory, the bytes may not be: a quiet file costs no thread.
            size = os.fstat(descriptor).st_size
            if size > at:
                data = await loop.run_in_executor(threads, os.pread, descriptor, _CHUNK, at)
                yield LogPiece(offset, data)
                offset, pause = offset + len(data), _SHORTEST
            elif size < at:
                shift = offset
            elif over:
                return
            else:
                # Seen to have ended before the next look: that look is the last.
                over = await watch.wait(pause)
                pause = min(pause * 2, _LONGEST)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
