"""What reading a log costs."""

import os
from pathlib import Path

from agent.ports.runner import LOG_START, RunnerPort, Workload


async def read_whole(runner: RunnerPort, workload: Workload) -> tuple[int, int]:
    """Read a log to its end; its bytes, and the bytes of memory that it took beyond before."""
    before = _resident()
    total = most = 0
    async for piece in runner.logs(workload, LOG_START):
        assert piece.position.skip == total
        total += len(piece.data)
        most = max(most, _resident())
    return total, most - before


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
