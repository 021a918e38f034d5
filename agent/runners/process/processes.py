"""A job's processes: listed from /proc, watched by pidfd, stopped; and its log, followed."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agent.ports.runner import MAYBE_MISSING, LogPiece, LogPosition
from agent.system.child import signal_group

#: Variable that marks every process of a job.
MARKER: Final = "LAUNCH_WORKLOAD"

#: Seconds for the supervisor to write the exit code.
_EXIT_CODE_WAIT: Final = 5.0
_SESSION_FIELD: Final = 3
_ROUNDS: Final = 50
_CHUNK: Final = 64 * 1024
#: Bytes; a disk with less free space is full.
_MIN_FREE: Final = 64 * 1024
#: Seconds between looks at a quiet log: short after output, longer without.
_FIRST_PAUSE_SECONDS: Final = 0.02
_MAX_PAUSE_SECONDS: Final = 0.2


def members(name: str, session: int | None) -> Iterator[int]:
    """Process ids of a job, its supervisor included. Blocks.

    Those of its session, and children that made a session of their own, found by the variable
    that every job has. A process that also dropped its environment is out of reach.

    `session` only while its id is certainly the job's; `None` uses the variable alone.
    """
    marker = f"{MARKER}={name}".encode()
    for entry in os.listdir("/proc"):  # noqa: PTH208 -- names only, hundreds of them
        if entry.isdigit() and _belongs(entry, session, marker):
            yield int(entry)


def kill_members(name: str, session: int | None, spared: int | None) -> None:
    """Kill all processes of a job except `spared`. Blocks.

    Repeats until a round finds none, as a process may fork before it is killed.
    """
    for _ in range(_ROUNDS):
        victims = [pid for pid in members(name, session) if pid != spared]
        if not victims:
            return
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def has_no_space(place: Path | int) -> bool:
    """Whether the disk of a path or an open file is full, for others than root."""
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize < _MIN_FREE


def group_is_empty(session: int) -> bool:
    """Whether the job's own process group has no member; one system call."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


class Watch:
    """Observes a process until its end; `None` is a process that has ended.

    The caller verifies, after entering, that the id still belongs to the same process.
    """

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._descriptor: int | None = None
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self._pid is not None:
            with suppress(ProcessLookupError):
                self._descriptor = os.pidfd_open(self._pid)
        if self._descriptor is None:
            self._ended.set()
        else:
            asyncio.get_running_loop().add_reader(self._descriptor, self.set_ended)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)

    async def wait(self, limit: float | None = None) -> bool:
        """Wait at most `limit` seconds; whether it has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._ended.wait()
        return self._ended.is_set()

    def set_ended(self) -> None:
        """Mark the process as ended."""
        self._ended.set()
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)


async def stop_group(
    name: str, session: int, watch: Watch, grace: float, threads: Executor
) -> None:
    """Stop a job: SIGTERM to its process group, SIGKILL to what is left after `grace` seconds.

    `watch` observes the supervisor, whose id is also that of the `session`.
    """
    kill = asyncio.get_running_loop().run_in_executor
    signal_group(session, signal.SIGTERM)
    signal_group(session, signal.SIGCONT)  # a suspended job cannot act on SIGTERM
    if not await watch.wait(grace):
        # The supervisor is spared: it still has to write the exit code.
        await kill(threads, kill_members, name, session, session)
        await watch.wait(_EXIT_CODE_WAIT)
    await kill(threads, kill_members, name, session, None)


async def follow(
    path: Path, offset: int, watch: Watch, threads: Executor
) -> AsyncGenerator[LogPiece, None]:
    """Yield the file from `offset` on until its writer has ended and all was read.

    A job that opens /dev/stdout for writing truncates its own log; what it writes afterwards
    is returned as if it followed. What a job writes while the disk is full is lost.
    """
    loop = asyncio.get_running_loop()
    descriptor = await loop.run_in_executor(threads, _open, path)
    if descriptor is None:
        return
    try:
        pause, over, shift, full = _FIRST_PAUSE_SECONDS, False, 0, False
        while True:
            at = offset - shift
            # The size is in memory, the bytes may not be: a quiet file costs no thread.
            size = os.fstat(descriptor).st_size
            if size > at:
                data = await loop.run_in_executor(threads, os.pread, descriptor, _CHUNK, at)
                yield LogPiece(LogPosition(skip=offset), data, MAYBE_MISSING if full else 0)
                offset, pause, full = offset + len(data), _FIRST_PAUSE_SECONDS, False
            elif size < at:
                shift = offset
            elif over:
                if full or has_no_space(descriptor):
                    yield LogPiece(LogPosition(skip=offset), b"", MAYBE_MISSING)
                return
            else:
                full = full or has_no_space(descriptor)
                # If it had ended before the next read, that read is the last.
                over = await watch.wait(pause)
                pause = min(pause * 2, _MAX_PAUSE_SECONDS)
    finally:
        os.close(descriptor)


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


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
