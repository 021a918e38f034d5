"""Carries connections from one place to another, as a process of its own.

`python -m tests.infrastructure.relay FROM TO`, where a place is `unix:PATH` or `tcp:HOST:PORT`.
Started in a network of its own, it brings a server of ours in there: a path of a socket is known
in every network.
"""

import asyncio
import sys
from contextlib import suppress

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_CHUNK = 64 * 1024


async def _open(place: str) -> Streams:
    kind, _, where = place.partition(":")
    if kind == "tcp":
        host, _, port = where.rpartition(":")
        return await asyncio.open_connection(host, int(port))
    return await asyncio.open_unix_connection(where)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def serve(source: str, target: str) -> None:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await _open(target)
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
            far_writer.close()
        writer.close()

    kind, _, where = source.partition(":")
    if kind == "unix":
        server = await asyncio.start_unix_server(carry, where)
    else:
        host, _, port = where.rpartition(":")
        server = await asyncio.start_server(carry, host, int(port))
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
