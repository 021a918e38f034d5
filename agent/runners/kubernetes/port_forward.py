"""One port of a pod on a loopback port of this machine, through the API server.

The protocol is that of `kubectl port-forward` over WebSockets: each message begins with the number
of its channel, 0 for the data and 1 for errors, and the first of each channel has the port in two
bytes (k8s.io/kubelet, pkg/cri/streaming/portforward/websocket.go).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import aiohttp
import structlog

from agent.model.errors import JobError
from agent.runners.kubernetes.api import PODS, ClusterApi

_DATA: Final = b"\x00"
_ERROR_CHANNEL: Final = 1
_PORT_BYTES: Final = 2
_CHUNK: Final = 64 * 1024


@asynccontextmanager
async def port_forward(api: ClusterApi, pod: str, port: int) -> AsyncIterator[int]:
    """The local port; each connection to it becomes one to the pod's."""
    path = PODS.path(api.namespace, pod, "portforward")
    carried: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with api.websocket(path, {"ports": str(port)}) as socket:
                await _carry(socket, reader, writer)
        except (JobError, OSError, aiohttp.ClientError) as error:
            structlog.get_logger().debug("a connection to a pod broke", pod=pod, error=str(error))
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(carry(reader, writer), name="port-forward")
        carried.add(task)
        task.add_done_callback(carried.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        left = tuple(carried)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _carry(
    socket: aiohttp.ClientWebSocketResponse,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Until either side ends."""
    ways = {asyncio.create_task(_send(socket, reader)), asyncio.create_task(_take(socket, writer))}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        for result in await asyncio.gather(*ways, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def _send(socket: aiohttp.ClientWebSocketResponse, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_CHUNK):
        await socket.send_bytes(_DATA + data)


async def _take(socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    begun: set[int] = set()
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY:
            return
        channel, data = message.data[0], message.data[1:]
        if channel not in begun:
            begun.add(channel)
            data = data[_PORT_BYTES:]
        if channel == _ERROR_CHANNEL and data:
            raise OSError(data.decode("utf-8", "replace"))
        writer.write(data)
        with suppress(ConnectionError):
            await writer.drain()
