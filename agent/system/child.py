"""Child processes: their output is streamed, and none outlives the call that started it.

Sources and builders run programs (git, docker buildx, uv) with this module. A child gets a
session of its own, so that signals reach the processes it starts as well.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.system.job_users import JobUser
from agent.system.tasks import task_group

Consumer = Callable[[bytes], Awaitable[None]]

_CHUNK: Final = 64 * 1024
#: Seconds between SIGTERM and SIGKILL; git and buildx clean up in far less.
_GRACE: Final = 5.0


class SilentError(Exception):
    """The child wrote nothing for `Command.idle` seconds."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. The environment is complete: nothing of the agent's own is added."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path | None = None
    #: Seconds without a byte on either stream before `SilentError`; the time that a consumer
    #: takes is not counted.
    idle: float | None = None
    #: Whose process it is, with no access for others to its files; `None`: the agent's own user.
    user: JobUser | None = None


class Tail:
    """A consumer that keeps the last `limit` bytes and passes everything to `then`."""

    def __init__(self, limit: int = 16 * 1024, then: Consumer | None = None) -> None:
        self._limit = limit
        self._then = then
        self._kept = bytearray()

    async def __call__(self, data: bytes) -> None:
        """Take the next bytes."""
        self._kept += data
        del self._kept[: -self._limit]
        if self._then is not None:
            await self._then(data)

    @property
    def text(self) -> str:
        """The kept bytes as text; undecodable ones are replaced."""
        return self._kept.decode("utf-8", "replace")


async def run(command: Command, stdout: Consumer, stderr: Consumer) -> int:
    """Run to the end and return the exit code (negative: the signal).

    Also when cancelled or failing, the child and its process group have ended on return.

    Raises:
        FileNotFoundError: no such program.
        SilentError: see `Command.idle`.
    """
    process = await asyncio.create_subprocess_exec(
        *command.argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(command.env),
        cwd=command.cwd,
        start_new_session=True,
        limit=_CHUNK,
        **(command.user.process_options() if command.user else {}),
    )
    try:
        return await _follow(process, command.idle, stdout, stderr)
    finally:
        try:
            await _until_ended(process)
        finally:
            # A consumer that failed may have left its pipe paused, which nobody closes then.
            process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001


async def _follow(
    process: asyncio.subprocess.Process, idle: float | None, stdout: Consumer, stderr: Consumer
) -> int:
    try:
        async with asyncio.timeout(idle) as limit, task_group() as pumps:
            idle_limit = _IdleLimit(limit, idle)
            pumps.create_task(_pump(process.stdout, stdout, idle_limit))
            pumps.create_task(_pump(process.stderr, stderr, idle_limit))
        return await process.wait()
    except TimeoutError:
        if limit.expired():
            raise SilentError from None
        raise


class _IdleLimit:
    """Reschedules the idle timeout: suspended while a consumer works, restarted after it."""

    def __init__(self, limit: asyncio.Timeout, idle: float | None) -> None:
        self._limit = limit
        self._idle = idle
        self._busy = 0

    def __enter__(self) -> None:
        self._busy += 1
        self._limit.reschedule(None)

    def __exit__(self, *_: object) -> None:
        self._busy -= 1
        if self._idle is not None and not self._busy:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._idle)


async def _pump(
    stream: asyncio.StreamReader | None, consumer: Consumer, idle_limit: _IdleLimit
) -> None:
    while stream is not None and (data := await stream.read(_CHUNK)):
        with idle_limit:
            await consumer(data)


async def _until_ended(process: asyncio.subprocess.Process) -> None:
    """End the child; further cancellations wait too, so that no child outlives the call."""
    if process.returncode is not None:
        return
    ending = asyncio.create_task(_end(process))
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _end(process: asyncio.subprocess.Process) -> None:
    signal_group(process.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(_GRACE):
            await process.wait()
            return
    signal_group(process.pid, signal.SIGKILL)
    await process.wait()


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group; no error if it is gone."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)
