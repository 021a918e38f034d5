"""Connections: how many there may be, and how long the head of a request may take.

A client that opens connections and sends halves of requests would otherwise use up the file
descriptors of the process, without any key.
"""

import asyncio
import resource
import socket
import time
from collections import Counter
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

#: File descriptors kept for the database, files and what the kernel has accepted already.
_RESERVE: Final = 384
_FEWEST: Final = 64
#: Connections that the kernel holds, and that are accepted at a time, before they are counted.
BACKLOG: Final = 256
#: Seconds between two lines of the log about the same.
_LOG_INTERVAL: Final = 60.0


class Connections:
    """Counts the connections of one server, and refuses those that are too many."""

    def __init__(self, total: int | None, per_address: int, head_timeout: float) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.total = total or max(_FEWEST, soft - max(_RESERVE, soft // 4))
        # So that one address alone cannot take all.
        self.per_address = min(per_address, max(1, self.total // 2))
        self.head_timeout = head_timeout
        self._open: Counter[str] = Counter()
        self._by_handler: dict[object, GuardedConnection] = {}
        self._refused = 0
        self._logged = -_LOG_INTERVAL

    def add(self, handler: object, connection: "GuardedConnection", address: str) -> bool:
        """Count a new connection; false when it has to be closed."""
        if self._open.total() >= self.total or self._open[address] >= self.per_address:
            self._refuse(address)
            return False
        self._open[address] += 1
        self._by_handler[handler] = connection
        return True

    def remove(self, handler: object, address: str) -> None:
        """Stop counting a closed connection."""
        del self._by_handler[handler]
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def of(self, handler: object) -> "GuardedConnection | None":
        """The connection of a request's protocol."""
        return self._by_handler.get(handler)

    def _refuse(self, address: str) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._logged >= _LOG_INTERVAL:
            structlog.get_logger().warning(
                "connections refused: too many are open",
                number=self._refused, open=self._open.total(), most=self.total,
                address=address, from_there=self._open[address],
                most_from_there=self.per_address,
            )  # fmt: skip
            self._logged, self._refused = now, 0


CONNECTIONS: Final = web.AppKey("connections", Connections)


class GuardedConnection(asyncio.Protocol):
    """A connection of aiohttp's, closed when the head of a request does not arrive in time.

    The time runs from the connection, or from the first byte after a request. Bodies have limits
    of their own (`bodies.py`), idle connections aiohttp's `keepalive_timeout`.
    """

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self._inner = inner
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._address = ""
        self._admitted = False
        self._requests = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it; connections above the limit are closed without an answer."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- of a TCP server
        peer = transport.get_extra_info("peername")
        self._transport, self._address = transport, str(peer[0]) if peer else ""
        self._admitted = self._connections.add(self._inner, self, self._address)
        if not self._admitted:
            transport.abort()
            return
        self._inner.connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Pass on; the first bytes after a request start the time for the next one."""
        if not self._admitted:
            return
        if self._timer is None and not self._requests:
            self._start_timer()
        self._inner.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Pass on."""
        self._stop_timer()
        if self._admitted:
            self._connections.remove(self._inner, self._address)
            self._inner.connection_lost(error)

    def eof_received(self) -> bool | None:
        """Pass on."""
        return self._inner.eof_received() if self._admitted else None

    def pause_writing(self) -> None:
        """Pass on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self._inner.resume_writing()

    def request_started(self) -> None:
        """The head of a request has arrived."""
        self._requests += 1
        self._stop_timer()

    def request_ended(self) -> None:
        """The next head may begin."""
        self._requests -= 1

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._connections.head_timeout, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class GuardedSite(web.BaseSite):
    """A listening socket whose connections are guarded."""

    def __init__(
        self, runner: web.AppRunner, listener: socket.socket, connections: Connections
    ) -> None:
        super().__init__(runner)
        self._listener = listener
        self._connections = connections

    @property
    def name(self) -> str:
        """Its address, for aiohttp's messages."""
        host, port = self._listener.getsockname()[:2]
        return f"http://{host}:{port}"

    async def start(self) -> None:
        """Accept connections."""
        await super().start()
        server = self._runner.server
        assert server is not None  # noqa: S101 -- `BaseSite` has looked

        def accepted() -> GuardedConnection:
            return GuardedConnection(server(), self._connections)

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(accepted, sock=self._listener, backlog=BACKLOG)


@web.middleware
async def head_arrived(request: web.Request, handler: Handler) -> web.StreamResponse:
    """End the time for the head of a request while it is answered."""
    connection = request.app[CONNECTIONS].of(request.protocol)
    if connection is None:
        return await handler(request)
    connection.request_started()
    try:
        return await handler(request)
    finally:
        connection.request_ended()
