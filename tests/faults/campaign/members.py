"""The processes of a campaign: each can be killed and started again, and frozen for a while."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.infrastructure.engine import Engine

ROOT = Path(__file__).parents[3]
#: Seconds after which what ended by itself is started again.
_RESTART = 0.5


class Member(Protocol):
    """Something that faults happen to."""

    name: str

    async def start(self) -> None:
        """Start it, or start it again."""

    async def kill(self) -> None:
        """SIGKILL."""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it."""


class Command:
    """A child process, with a log that all its lives share.

    One that ends by itself is started again, as systemd does: an agent that finds no control
    plane at its start ends.
    """

    def __init__(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self._argv = argv
        self._env = env
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def log(self) -> Path:
        """Standard output and error."""
        return self._folder / f"{self.name}.log"

    async def start(self) -> None:
        await self._spawn()
        self._supervisor = asyncio.create_task(self._supervise(), name=self.name)

    async def kill(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        supervisor.cancel()
        await asyncio.wait({supervisor})
        self.send(signal.SIGKILL)
        assert self._process is not None
        await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _supervise(self) -> None:
        while True:
            assert self._process is not None
            await self._process.wait()
            await asyncio.sleep(_RESTART)
            await self._spawn()

    async def _spawn(self) -> None:
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=dict(self._env),
                cwd=self._folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )


def relay(name: str, source: str, target: str, folder: Path) -> Command:
    """A way between two members. Killing it cuts all connections, freezing it loses packets."""
    argv = [sys.executable, "-m", "tests.infrastructure.relay", source, target]
    return Command(name, argv, {**os.environ, "PYTHONPATH": str(ROOT)}, folder)


@dataclass
class EngineMember:
    """An engine of the campaign's own."""

    engine: Engine
    name: str = "engine"

    async def start(self) -> None:
        await asyncio.to_thread(self.engine.start)

    async def kill(self) -> None:
        daemon = self.engine.daemon
        await asyncio.to_thread(lambda: daemon.stop(signal.SIGKILL))

    def send(self, number: signal.Signals) -> None:
        pid = self.engine.daemon.pid()
        if pid is not None:
            os.kill(pid, number)


@dataclass(frozen=True)
class Place:
    """A member, what happens to it, and how often in comparison with others."""

    member: Member
    weight: float
    #: Seconds between death and next life, at most.
    longest_death: float
    #: Seconds frozen, at most; 0 is never.
    longest_freeze: float
    #: Returns when a new life has begun its work, where others wait for it.
    at_work: Callable[[], Awaitable[None]] | None = None
