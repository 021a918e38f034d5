"""The processes of a job, found in /proc: its session, and whoever left it.

A child that made a session of its own is known by the variable that every job carries. A
process that dropped its environment as well is out of reach; a container holds such.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

#: Variable that marks every process of a job.
MARKER: Final = "LAUNCH_WORKLOAD"

_SESSION_FIELD: Final = 3
_ROUNDS: Final = 50


def members(name: str, session: int | None) -> Iterator[int]:
    """Process ids of a job, its supervisor included. Blocks.

    `session` only while its id is sure to be the job's; `None` goes by the variable alone.
    """
    marker = f"{MARKER}={name}".encode()
    for entry in os.listdir("/proc"):  # noqa: PTH208 -- names only, hundreds of them
        if entry.isdigit() and _belongs(entry, session, marker):
            yield int(entry)


def kill_members(name: str, session: int | None, spared: int | None) -> None:
    """Kill all processes of a job but the spared one. Blocks.

    Repeats until a whole round finds nobody, as the killed may have forked meanwhile.
    """
    for _ in range(_ROUNDS):
        victims = [pid for pid in members(name, session) if pid != spared]
        if not victims:
            return
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def group_is_empty(session: int) -> bool:
    """Whether the job's own process group has no member: one call, no walk."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _belongs(entry: str, session: int | None, marker: bytes) -> bool:
    try:
        with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] in {b"Z", b"X"}:
            return False
        if int(fields[_SESSION_FIELD]) == session:
            return True
        with open(f"/proc/{entry}/environ", "rb") as file:  # noqa: PTH123
            return marker in file.read().split(b"\0")
    except OSError:
        return False
