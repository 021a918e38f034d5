"""Reading request bodies: whole ones within a limit, streams as they come, neither for ever."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from aiohttp import web

from agent.control.files.blobs import TooLargeError
from agent.model.errors import InvalidInputError

#: Seconds for a whole body, and for the next piece of a stream.
_PATIENCE: Final = 60.0
_PIECE: Final = 256 * 1024


async def read_bytes(request: web.Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        TooLargeError: more than `limit` bytes.
        TimeoutError: it did not arrive in time.
    """
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    data = bytearray()
    async with asyncio.timeout(_PATIENCE):
        async for piece in request.content.iter_chunked(_PIECE):
            data += piece
            if len(data) > limit:
                raise _too_large(limit)
    return bytes(data)


async def read_json(request: web.Request, limit: int) -> Any:
    """The body, decoded; bare NaN and Infinity pass.

    Raises:
        InvalidInputError: not declared as JSON, or not JSON.
    """
    if request.content_type != "application/json":
        message = f"The body is declared as {request.content_type}."
        raise InvalidInputError(message, hint="Send Content-Type: application/json.")
    try:
        return json.loads(await read_bytes(request, limit))
    except (ValueError, RecursionError):
        raise InvalidInputError("The body is not JSON.") from None


async def pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it arrives.

    Raises:
        TimeoutError: nothing came for a minute.
        ConnectionError: it was cut; also when fewer bytes came than were announced.
    """
    stream = request.content.iter_chunked(_PIECE)
    seen = 0
    while True:
        try:
            async with asyncio.timeout(_PATIENCE):
                piece = await anext(stream)
        except StopAsyncIteration:
            break
        seen += len(piece)
        yield piece
    if request.content_length not in {None, seen}:
        raise ConnectionResetError("the upload was cut")


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"The body is larger than the {limit} bytes that are allowed.")
