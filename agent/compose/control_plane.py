"""The control plane in this process: embedded in an agent, or as `launch server`."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from agent.compose.logs import configure_log
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

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the command prints when the agent or the server has started."""

    url: str
    #: Where the address was configured.
    origin: str
    #: URL that signs a browser in, once; only of control planes in this process.
    sign_in: str | None = None
    #: What jobs can run on; a new default queue takes the first.
    resources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """A control plane of this process, with the key of the user who started it."""

    control_plane: "ControlPlane"
    remote: RemoteServer
    sign_in: str


@asynccontextmanager
async def serve_embedded(
    control: ControlConfig, state_dir: Path, origin: str
) -> AsyncIterator[Served]:
    """Serve a control plane; a file in `state_dir` gives its address to the user's commands.

    Raises:
        ConfigError: the port is in use, or an address is not one of this machine.
        ConflictError: another process uses the database.
    """
    from agent.control.server import ControlPlane

    async with ControlPlane(control) as control_plane:
        accounts = control_plane.services.accounts
        account = await accounts.bootstrap_local(machine.user_name(), remembered_key(state_dir))
        principal = await accounts.authenticate(account.api_key)
        url = control_plane.url
        embedded = EmbeddedControlPlane(url, account.api_key, os.getpid(), account.entity)
        await asyncio.to_thread(write_embedded, state_dir, embedded)
        try:
            remote = RemoteServer(url, SecretStr(account.api_key), None, origin)
            yield Served(control_plane, remote, control_plane.sign_in_url(principal.key_id))
        finally:
            await asyncio.to_thread(remove_embedded, state_dir, os.getpid())


def run_server(loaded: Loaded, announce: Callable[[Announcement], None]) -> int:
    """Serve the control plane until SIGTERM or SIGINT; returns the exit code.

    Raises:
        LaunchError: it cannot start; the message says why.
    """
    return asyncio.run(_run_server(loaded.config, announce))


async def _run_server(config: AgentConfig, announce: Callable[[Announcement], None]) -> int:
    from agent.daemon.systemd import SystemdNotifier

    configure_log(config)
    notifier = SystemdNotifier()
    async with serve_embedded(config.control, config.state_dir, "launch server") as served:
        announce(Announcement(served.remote.url, served.remote.origin, served.sign_in))
        notifier.ready(f"serving at {served.remote.url}")
        watchdog = asyncio.create_task(notifier.run_watchdog(), name="watchdog")
        try:
            await _stop_signal()
        finally:
            watchdog.cancel()
            await asyncio.gather(watchdog, return_exceptions=True)
        notifier.stopping("shutting down")
    return 0


async def _stop_signal() -> None:
    """Wait for SIGTERM or SIGINT."""
    received = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, received.set)
    try:
        await received.wait()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
