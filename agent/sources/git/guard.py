"""A proxy on loopback for programs that resolve names themselves.

`git lfs` takes addresses from its server's answers and resolves them itself, so that nothing
can be pinned beforehand. Through this proxy its connections are judged as git's own are.
Only TLS passes: what is inside stays between the program and the far end. The language of
`git lfs` never uses a proxy for addresses written as loopback ones; those go past.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from typing import Final

from agent.model.errors import LaunchError
from agent.sources.git.addresses import AddressPolicy
from agent.sources.git.remote import Remote

_CONNECT: Final = re.compile(rb"CONNECT \[?([0-9A-Za-z:._-]+?)\]?:([0-9]{1,5}) HTTP/1\.[01]\r\n")
_LONGEST_HEAD: Final = 16 * 1024
_BLOCK: Final = 64 * 1024
#: Seconds until a connection stands.
_PATIENCE: Final = 30.0


class Guard:
    """The proxy while it listens, and what it refused last."""

    def __init__(self, policy: AddressPolicy, threads: Executor) -> None:
        self._policy = policy
        self._threads = threads
        self._open: set[asyncio.Task[None]] = set()
        self.refused: LaunchError | None = None

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection more."""
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
        match = _CONNECT.match(await reader.readuntil(b"\r\n\r\n"))
        if match is None:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        host, port = match[1].decode().lower(), int(match[2])
        remote = Remote("https", host, port, None, "/")
        address = (await self._policy.addresses(remote, self._threads))[0]
        async with asyncio.timeout(_PATIENCE):
            far_reader, far_writer = await asyncio.open_connection(address, port)
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            far_writer.close()


@asynccontextmanager
async def guarded(policy: AddressPolicy, threads: Executor) -> AsyncIterator[tuple[Guard, str]]:
    """A guard that listens while the context lasts, and its URL."""
    guard = Guard(policy, threads)
    server = await asyncio.start_server(guard.accept, "127.0.0.1", 0, limit=_LONGEST_HEAD)
    try:
        port = server.sockets[0].getsockname()[1]
        yield guard, f"http://127.0.0.1:{port}"
    finally:
        server.close()
        await guard.close()
        await server.wait_closed()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """All that comes, and that nothing more comes; a broken connection is an end as well."""
    with suppress(OSError):
        while block := await source.read(_BLOCK):
            target.write(block)
            await target.drain()
        target.write_eof()
