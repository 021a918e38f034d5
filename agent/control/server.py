"""The control plane as a server: start, listen on addresses, stop."""

import asyncio
import errno
import socket
from typing import Final, Self

from aiohttp import web

from agent.config.control import ControlConfig
from agent.control.app import create_app
from agent.control.auth.policy import Principal
from agent.control.middleware.connections import BACKLOG, CONNECTIONS, GuardedSite
from agent.control.request_data import JOB_ADDRESSES, PLANE, STOPPING
from agent.control.services.assembly import Services
from agent.model.errors import ConfigError

#: Seconds that open requests get when the server stops; long polls and streams end at once.
_GRACE: Final = 5.0
#: Seconds that a connection may be idle between two requests.
_KEEP_ALIVE: Final = 75.0
#: Reason and hint for errors of `bind` and `listen`.
_BIND_ERRORS: Final = {
    errno.EADDRINUSE: (
        "it is in use",
        (
            "Stop the program that uses it (perhaps another launch-agent), "
            "or choose another port: `control.port`; 0 takes a free one."
        ),
    ),
    errno.EADDRNOTAVAIL: (
        "not an address here",
        "Choose an address of this machine for `control.listen`.",
    ),
    errno.EACCES: ("not permitted", "Choose a port above 1023: `control.port`."),
}


class ControlPlane:
    """One control plane in this process.

    `async with ControlPlane(config) as plane:` serves until the block ends.
    """

    def __init__(self, config: ControlConfig) -> None:
        self._config = config
        self.app = create_app(config)
        self._runner = web.AppRunner(
            self.app,
            access_log=None,
            shutdown_timeout=_GRACE,
            # A client that disconnects ends its long poll; see `GraphQLHandler`.
            handler_cancellation=True,
            # Contents are stored as the bytes that arrive, whatever `Content-Encoding` says.
            auto_decompress=False,
            keepalive_timeout=_KEEP_ALIVE,
        )
        self._addresses: list[tuple[str, int]] = []

    @property
    def services(self) -> Services:
        """The services, for what the composition does before serving; after `start` only."""
        return self.app[PLANE]

    @property
    def port(self) -> int:
        """The port it listens on; after `start` only."""
        return self._addresses[0][1]

    @property
    def url(self) -> str:
        """Its URL on this machine; after `start` only."""
        host = self._addresses[0][0]
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- not binding
        return f"http://{_in_url(here)}:{self.port}"

    async def sign_in_url(self, principal: Principal) -> str:
        """A link that signs a browser in once, as the owner of the caller's key."""
        base = (self._config.external_url or self.url).rstrip("/")
        return f"{base}/login/link?token={await self.services.accounts.create_link(principal)}"

    async def start(self) -> None:
        """Open the store, then listen.

        Raises:
            ConfigError: an address cannot be listened on; names it and says what to do.
            ConflictError: another process uses the database.
        """
        try:
            await self._runner.setup()
            for address in (self._config.listen, *self._config.also_listen):
                await self._listen(address)
        except BaseException:
            await self.stop()
            raise

    async def listen_for_jobs(self, address: str) -> str:
        """Listen also where jobs reach it, on the same port; returns the URL there.

        An address it listens on already is not an error.
        """
        self.app[JOB_ADDRESSES].add(address)
        return await self._listen(address)

    async def _listen(self, address: str) -> str:
        port = self.port if self._addresses else self._config.port
        if (address, port) not in self._addresses:
            bound = _bind(address, port)
            await GuardedSite(self._runner, bound, self.app[CONNECTIONS]).start()
            port = bound.getsockname()[1]
            self._addresses.append((address, port))
        return f"http://{_in_url(address)}:{port}"

    async def stop(self) -> None:
        """End long polls and streams, let other requests finish, close the store."""
        self.app[STOPPING].set()
        # Handlers that wait see the event before the runner cancels what is left.
        await asyncio.sleep(0)
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()


def _bind(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        # Here and not by the site: `bind` succeeds for two processes, only `listen` for one.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        other = (error.strerror or str(error), "Set `control.listen`.")
        reason, hint = _BIND_ERRORS.get(error.errno or 0, other)
        message = f"Cannot listen on {address} port {port}: {reason}."
        raise ConfigError(message, hint=hint) from error
    return listener


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
