"""Cache folders: each records its last use, and the least recently used are evicted."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: File in each folder; its modification time is the folder's last use.
_MARK: Final = ".used"
#: Seconds. A folder used more recently may belong to a job that has not started yet.
FRESH: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached folder."""

    folder: Path
    #: Seconds since its last use.
    idle: float
    size: int


def mark_used(folder: Path) -> None:
    """Record a use of the folder."""
    (folder / _MARK).touch()


def entries(root: Path) -> list[Entry]:
    """All folders directly below `root` that record their use, least recently used first."""
    now = time.time()
    found = [
        Entry(mark.parent, max(0.0, now - mark.stat().st_mtime), _size(mark.parent))
        for mark in root.glob(f"*/{_MARK}")
    ]
    return sorted(found, key=lambda entry: -entry.idle)


def surplus(
    found: Sequence[Entry], max_age: float, max_bytes: int, fresh: float = FRESH
) -> list[Entry]:
    """Entries to evict: older than `max_age` seconds, then until the rest fits `max_bytes`.

    The least recently used go first. Those used within the last `fresh` seconds stay. For age and
    size 0 means no limit.
    """
    total = sum(entry.size for entry in found)
    chosen: list[Entry] = []
    for entry in found:
        too_old = max_age > 0 and entry.idle > max_age
        too_much = 0 < max_bytes < total
        if entry.idle > fresh and (too_old or too_much):
            chosen.append(entry)
            total -= entry.size
    return chosen


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total
