"""The control plane in this process: embedded in an agent, or served by itself."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from agent.compose.logs import start_log
from agent.config.agent import AgentConfig
from agent.config.control import ControlConfig
from agent.config.credentials import (
    EmbeddedControlPlane,
    remembered_key,
    remove_embedded,
    write_embedded,
)
from agent.config.load import Loaded
from agent.config.server import RemoteServer
from agent.system import machine

if TYPE_CHECKING:
    from agent.control.server import ControlPlane


@dataclass(frozen=True, slots=True)
class Announcement:
    """What people are told when it starts."""

    url: str
    #: Where the address came from.
    origin: str
    #: Signs a browser in, once; only for planes of this process.
    sign_in: str | None = None
    #: What jobs can run on; the first is what a new default queue takes.
    resources: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """A plane of this process, with the key of the user who started it."""

    plane: "ControlPlane"
    remote: RemoteServer
    sign_in: str


@asynccontextmanager
async def serving(control: ControlConfig, state_dir: Path, origin: str) -> AsyncIterator[Served]:
    """Serve a plane, and tell commands of this user where, while the context lasts.

    Raises:
        ConfigError: the port is in use, or an address is not this machine's.
        ConflictError: another process uses the database.
    """
    from agent.control.server import ControlPlane

    async with ControlPlane(control) as plane:
        accounts = plane.services.accounts
        account = await accounts.bootstrap_local(machine.user_name(), remembered_key(state_dir))
        principal = await accounts.authenticate(account.api_key)
        found = EmbeddedControlPlane(plane.url, account.api_key, os.getpid(), account.entity)
        await asyncio.to_thread(write_embedded, state_dir, found)
        try:
            remote = RemoteServer(plane.url, SecretStr(account.api_key), None, origin)
            yield Served(plane, remote, plane.sign_in_url(principal.key_id))
        finally:
            await asyncio.to_thread(remove_embedded, state_dir, os.getpid())


def run_server(loaded: Loaded, announce: Callable[[Announcement], None]) -> int:
    """Serve the control plane until SIGTERM or SIGINT; returns the exit code.

    Raises:
        LaunchError: it cannot begin; the message says why.
    """
    return asyncio.run(_run_server(loaded.config, announce))


async def _run_server(config: AgentConfig, announce: Callable[[Announcement], None]) -> int:
    from agent.daemon.systemd import SystemdNotifier

    start_log(config)
    notifier = SystemdNotifier()
    async with serving(config.control, config.state_dir, "launch server") as served:
        announce(Announcement(served.remote.url, served.remote.origin, served.sign_in))
        notifier.ready(f"serving at {served.remote.url}")
        watching = asyncio.create_task(notifier.run_watchdog(), name="watchdog")
        try:
            await _asked_to_stop()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        notifier.stopping("leaving")
    return 0


async def _asked_to_stop() -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    try:
        await asked.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
