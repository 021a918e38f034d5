"""The demo's own `launch-agent`, as a child that ends with it."""

import asyncio
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import __version__
from agent.config.credentials import EmbeddedControlPlane, read_embedded
from agent.model.errors import LaunchError

if TYPE_CHECKING:
    from agent.remote.console import Console

#: Seconds.
_READY: Final = 60.0
_LEAVE: Final = 30.0
_CONFIG: Final = """\
# Written by `launch demo`. `file` is the administrator's switch for repositories on this disk.
queues: [default]
control: {port: 0}
sources: {git: {protocols: [https, ssh, file]}}
"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon; use `Daemon.running`."""

    process: asyncio.subprocess.Process
    plane: EmbeddedControlPlane
    state_dir: Path

    @property
    def url(self) -> str:
        """Address of its control plane."""
        return self.plane.url

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator["Daemon"]:
        """Start it, wait until it is ready, and stop it in the end.

        Raises:
            LaunchError: it did not become ready; with the end of its log.
        """
        state_dir, log = _prepare(folder)
        with _ready_socket() as (ready, address), log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agent.cli.launch_agent", "--embedded"),
                *("--config", str(folder / "config.yaml"), "--name", f"demo-{folder.parent.name}"),
                env={**daemon_environment(folder), "NOTIFY_SOCKET": address},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                await _until_ready(process, ready, log)
                plane = read_embedded(state_dir)
                if plane is None:
                    raise _not_ready("it left no address", log)
                yield cls(process, plane, state_dir)
            finally:
                await asyncio.shield(_stop(process))

    @asynccontextmanager
    async def console(self) -> AsyncIterator["Console"]:
        """A console on its control plane."""
        from agent.remote.client import Endpoint, GraphQLClient
        from agent.remote.console import Console

        endpoint = Endpoint(self.plane.url, self.plane.api_key)
        async with GraphQLClient(endpoint, user_agent=f"launch-demo/{__version__}") as client:
            yield Console(client)

    async def ended(self) -> None:
        """Wait until it ends by itself."""
        await self.process.wait()


def demo_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would steer the demo elsewhere."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("LAUNCH_", "WANDB_", "NOTIFY_", "WATCHDOG_"))
    }


def daemon_environment(folder: Path) -> dict[str, str]:
    """As `demo_environment`, with the daemon's own places."""
    return {
        **demo_environment(os.environ),
        "LAUNCH_CONFIG": str(folder / "config.yaml"),
        "LAUNCH_STATE_DIR": str(folder / "state"),
        "LAUNCH_DATA_DIR": str(folder / "data"),
    }


def _prepare(folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    (folder / "config.yaml").write_text(_CONFIG)
    return folder / "state", folder / "agent.log"


@contextmanager
def _ready_socket() -> Iterator[tuple[socket.socket, str]]:
    """Where the daemon says that it is ready, as it would to systemd."""
    # Not below the demo's folder: the path of a socket may have 107 bytes at most.
    address = Path(tempfile.gettempdir()) / f"launch-demo-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(address))
        ready.setblocking(False)
        try:
            yield ready, str(address)
        finally:
            address.unlink(missing_ok=True)


async def _until_ready(
    process: asyncio.subprocess.Process, ready: socket.socket, log: Path
) -> None:
    told = asyncio.create_task(_told(ready), name="ready")
    ended = asyncio.create_task(process.wait(), name="ended")
    try:
        await asyncio.wait({told, ended}, timeout=_READY, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            why = f"it ended with exit code {ended.result()}" if ended.done() else "it is too slow"
            raise _not_ready(why, log)
    finally:
        for task in (told, ended):
            task.cancel()
        await asyncio.gather(told, ended, return_exceptions=True)


async def _told(ready: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while b"READY=1" not in await loop.sock_recv(ready, 4096):
        pass


def _not_ready(why: str, log: Path) -> LaunchError:
    said = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    message = f"launch-agent did not start: {why}.\n{said}"
    return LaunchError(message, hint=f"The whole log is in {log}.")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """First and second level of stop, then by force."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), _LEAVE if number == signal.SIGTERM else None)
        except TimeoutError:
            continue
