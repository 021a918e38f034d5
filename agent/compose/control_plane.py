"""The control plane in this process: embedded in an agent, or as `launch server`."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from agent.compose.logs import configure_log
from agent.config.agent import AgentConfig
from agent.config.choose_server import RemoteServer
from agent.config.control import ControlConfig
from agent.config.local_files import (
    EmbeddedControlPlane,
    remembered_key,
    remove_embedded,
    write_administrator_key,
    write_embedded,
)
from agent.system import machine

if TYPE_CHECKING:
    from agent.control.server import ControlPlane


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
    #: File with the key of the first administrator; only of `launch server`.
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """The control plane that this process uses, and the key of its user."""

    remote: RemoteServer
    #: The control plane itself, where it is embedded in this process.
    control_plane: "ControlPlane | None" = None
    #: See `Announcement`.
    sign_in: str | None = None


@asynccontextmanager
async def serve_embedded(
    control: ControlConfig, state_dir: Path, origin: str
) -> AsyncIterator[Server]:
    """Serve a control plane; a file in `state_dir` gives its address to the user's commands.

    Raises:
        ConfigError: the port is in use, or an address is not one of this machine.
        ConflictError: another process uses the database.
    """
    from agent.control.server import ControlPlane

    async with ControlPlane(control) as control_plane:
        accounts = control_plane.services.accounts
        account = await accounts.bootstrap_local(
            machine.user_name(), remembered_key(state_dir), control.administrator_key
        )
        principal = await accounts.authenticate(account.api_key)
        url = control_plane.url
        embedded = EmbeddedControlPlane(url, account.api_key, os.getpid(), account.entity)
        await asyncio.to_thread(write_embedded, state_dir, embedded)
        try:
            remote = RemoteServer(url, SecretStr(account.api_key), None, origin)
            sign_in = await control_plane.sign_in_url(principal)
            yield Server(remote, control_plane, sign_in)
        finally:
            await asyncio.to_thread(remove_embedded, state_dir, os.getpid())


async def run_server(
    config: AgentConfig,
    announce: Callable[[Announcement], None],
    *,
    new_key: bool = False,
    restored: bool = False,
) -> int:
    """Serve the control plane until SIGTERM or SIGINT; returns the exit code.

    Before, with `new_key` a new signing key is put in front of the earlier one; with `restored`
    nothing of a database that is a backup can start by itself.

    Raises:
        LaunchError: it cannot start; the message says why.
    """
    from agent.daemon.process import SystemdNotifier, signal_handlers

    configure_log(config)
    notifier, received = SystemdNotifier(), asyncio.Event()
    # No job runs in this process: whatever it writes is its user's only.
    os.umask(0o077)
    if new_key:
        from agent.control.auth.signing import add_key

        await asyncio.to_thread(add_key, config.control)
    warnings = (await _after_restore(config.control),) if restored else ()
    async with serve_embedded(config.control, config.state_dir, "launch server") as served:
        key = served.remote.api_key.get_secret_value()
        key_file = await asyncio.to_thread(write_administrator_key, config.control.data_dir, key)
        remote = served.remote
        announce(
            Announcement(
                remote.url, remote.origin, served.sign_in, warnings=warnings, key_file=key_file
            )
        )
        notifier.ready(f"serving at {served.remote.url}")
        watchdog = asyncio.create_task(notifier.run_watchdog(), name="watchdog")
        try:
            with signal_handlers(received.set):
                await received.wait()
        finally:
            watchdog.cancel()
            await asyncio.gather(watchdog, return_exceptions=True)
        notifier.stopping("shutting down")
    return 0


async def _after_restore(control: ControlConfig) -> str:
    """Before anything is served; returns what the administrator should know."""
    from agent.control.services.assembly import open_services
    from agent.control.services.restore import after_restore

    async with open_services(control) as plane:
        found = await plane.database.write(after_restore)
    return (
        f"restored: {found.queues} queues were paused, {found.waiting} items wait on them, "
        f"{found.lost} that ran are lost. Stop the items that ran since the backup, then "
        "`launch queue resume NAME`."
    )
