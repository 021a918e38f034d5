"""Child processes: output as it comes, and never one left behind.

Sources and builders call programs (git, docker buildx, uv) through this one door. A child
gets a session of its own, so that ending it ends what it started as well.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.system.together import together

Consumer = Callable[[bytes], Awaitable[None]]

_CHUNK: Final = 64 * 1024
#: Seconds between SIGTERM and SIGKILL; git and buildx tidy up in far less.
_GRACE: Final = 5.0


class SilentError(Exception):
    """The child said nothing for as long as it was allowed to."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. The environment is complete: nothing of the agent's own is added."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path | None = None
    #: Seconds without a byte on either stream before `SilentError`; time that a consumer
    #: takes does not count.
    idle: float | None = None


class Tail:
    """A consumer that keeps the last bytes, and may pass all on."""

    def __init__(self, limit: int = 16 * 1024, then: Consumer | None = None) -> None:
        self._limit = limit
        self._then = then
        self._kept = bytearray()

    async def __call__(self, data: bytes) -> None:
        """Keep, and pass on."""
        self._kept += data
        del self._kept[: -self._limit]
        if self._then is not None:
            await self._then(data)

    @property
    def text(self) -> str:
        """What was kept, undecodable bytes replaced."""
        return self._kept.decode("utf-8", "replace")


async def run(command: Command, stdout: Consumer, stderr: Consumer) -> int:
    """Run to the end and give the exit code (negative: the signal).

    Cancelled or failing, the child and its children have ended when this returns.

    Raises:
        FileNotFoundError: there is no such program.
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
    )
    try:
        return await _follow(process, command.idle, stdout, stderr)
    finally:
        await _until_ended(process)


async def _follow(
    process: asyncio.subprocess.Process, idle: float | None, stdout: Consumer, stderr: Consumer
) -> int:
    try:
        async with asyncio.timeout(idle) as limit, together() as pumps:
            pulse = _Pulse(limit, idle)
            pumps.create_task(_pump(process.stdout, stdout, pulse))
            pumps.create_task(_pump(process.stderr, stderr, pulse))
        return await process.wait()
    except TimeoutError:
        if limit.expired():
            raise SilentError from None
        raise


class _Pulse:
    """Moves the idle limit: away while a consumer works, anew after each piece."""

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


async def _pump(stream: asyncio.StreamReader | None, consumer: Consumer, pulse: _Pulse) -> None:
    while stream is not None and (data := await stream.read(_CHUNK)):
        with pulse:
            await consumer(data)


async def _until_ended(process: asyncio.subprocess.Process) -> None:
    """End it; a second cancellation waits too, since a child must not be left behind."""
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
    """Send a signal to a process group; legal for one that is gone."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)
