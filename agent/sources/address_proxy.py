"""A proxy that enforces the address policy for programs that open connections themselves."""

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from typing import Final

from agent.model.errors import LaunchError
from agent.sources.address_policy import AddressPolicy
from agent.sources.git.remote import Remote

_HOST: Final = rb"\[?(?P<host>[0-9A-Za-z:._-]+?)\]?"
_CONNECT: Final = re.compile(rb"CONNECT " + _HOST + rb":(?P<port>[0-9]{1,5}) HTTP/1\.[01]\r\n")
_PLAIN: Final = re.compile(
    rb"(?P<method>[A-Z]+) http://" + _HOST + rb"(?::(?P<port>[0-9]{1,5}))?(?P<path>/[^ \r\n]*)?"
    rb" HTTP/1\.[01]\r\n"
)
_MAX_HEAD_BYTES: Final = 16 * 1024
_BLOCK: Final = 64 * 1024
#: Seconds for a connection to be established.
_CONNECT_TIMEOUT: Final = 30.0


class AddressProxy:
    """A proxy on loopback that applies the address policy to a program's connections.

    For programs that resolve names themselves and follow redirects, such as `git lfs` and uv. TLS
    (`CONNECT`) passes unread; with `plain`, a request without TLS is passed on with its connection.
    """

    def __init__(self, policy: AddressPolicy, threads: Executor, *, plain: bool) -> None:
        self._allows_plain = plain
        self._policy = policy
        self._threads = threads
        self._open: set[asyncio.Task[None]] = set()
        #: The last refusal; the program's own error does not say why.
        self.refused: LaunchError | None = None

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._pass(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            with suppress(OSError):
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        except LaunchError as error:
            self.refused = error
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        finally:
            writer.close()

    async def close(self) -> None:
        """End all connections."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        tunnel = _CONNECT.match(head)
        plain = _PLAIN.match(head) if self._allows_plain else None
        match = tunnel or plain
        if match is None:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        host, port = match["host"].decode().lower(), int(match["port"] or 80)
        remote = Remote("https" if tunnel else "http", host, port, None, "/")
        address = (await self._policy.checked_addresses(remote, self._threads))[0]
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            remote_reader, remote_writer = await asyncio.open_connection(address, port)
        try:
            if tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            elif plain:
                remote_writer.write(_for_origin(plain, head))
            await asyncio.gather(_copy(reader, remote_writer), _copy(remote_reader, writer))
        finally:
            remote_writer.close()


@asynccontextmanager
async def address_proxy(
    policy: AddressPolicy, threads: Executor, *, plain: bool = False
) -> AsyncIterator[tuple[AddressProxy, str]]:
    """A proxy that listens while the context lasts, and its URL."""
    proxy = AddressProxy(policy, threads, plain=plain)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, limit=_MAX_HEAD_BYTES)
    try:
        port = server.sockets[0].getsockname()[1]
        yield proxy, f"http://127.0.0.1:{port}"
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()


def _for_origin(plain: re.Match[bytes], head: bytes) -> bytes:
    """A request to a proxy as its server takes it; one for each connection.

    A second request on the same connection would reach the same server, whatever it names.
    """
    line = plain["method"] + b" " + (plain["path"] or b"/") + b" HTTP/1.1\r\n"
    fields = head[plain.end() :].split(b"\r\n")
    kept = (field for field in fields if not field.lower().startswith((b"connection:", b"proxy-")))
    return line + b"Connection: close\r\n" + b"\r\n".join(kept)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copy until the end, and pass the end on; a broken connection counts as one."""
    with suppress(OSError):
        while block := await source.read(_BLOCK):
            target.write(block)
            await target.drain()
        target.write_eof()
