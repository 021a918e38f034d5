"""What a job's status file tells.

Whoever starts the job creates the file, exclusively, so its existence means that a start
was tried. It holds up to three lines: `start <seconds since 1970>` by the starter, `pid
<n>` by the supervisor once it handles signals, `exit <code>` at the end. The supervisor
holds a lock on it while it lives, which no reuse of process ids can imitate.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.system.locks import try_lock


@dataclass(frozen=True, slots=True)
class Status:
    """One reading of the file."""

    started_at: datetime
    #: `None` until the supervisor handles signals.
    pid: int | None
    exit_code: int | None
    finished_at: datetime | None
    #: Whether the supervisor lives.
    alive: bool


def read_status(path: Path) -> Status | None:
    """The present status; `None` when no start was tried."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # First the lock, then the text: a supervisor that ends between the two has written.
        alive = not try_lock(descriptor, shared=True)
        facts = os.fstat(descriptor)
        text = os.pread(descriptor, 4096, 0).decode("ascii", "replace")
    finally:
        os.close(descriptor)
    words = dict(line.split(" ", 1) for line in text.split("\n")[:-1] if " " in line)
    changed = datetime.fromtimestamp(facts.st_mtime, UTC)
    started = float(words["start"]) if "start" in words else facts.st_mtime
    code = int(words["exit"]) if "exit" in words else None
    return Status(
        started_at=datetime.fromtimestamp(started, UTC),
        pid=int(words["pid"]) if "pid" in words else None,
        exit_code=code,
        finished_at=None if code is None else changed,
        alive=alive,
    )
