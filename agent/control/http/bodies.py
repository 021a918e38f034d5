"""Reading request bodies: whole ones within a limit, streams as they come, neither for ever."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from aiohttp import BodyPartReader, ClientError, MultipartReader, web
from aiohttp.hdrs import CONTENT_LOCATION

from agent.control.files.verifying import TooLargeError
from agent.model.errors import InvalidInputError, LaunchError

Arrived = TypeVar("Arrived")

#: Seconds for a whole body, and for the next piece of a stream.
_PATIENCE: Final = 60.0
_PIECE: Final = 256 * 1024


class BrokenOffError(LaunchError):
    """The request's body did not arrive in full."""

    code = "BROKEN_OFF"


@contextmanager
def _arriving() -> Iterator[None]:
    """Whatever goes wrong while a body arrives is the connection's doing, not ours."""
    try:
        yield
    except TimeoutError:
        raise BrokenOffError("The request's body did not arrive in time.") from None
    except (ConnectionError, ClientError, web.RequestPayloadError) as error:
        raise BrokenOffError("The request's body was cut.") from error


async def read_bytes(request: web.Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        TooLargeError: more than `limit` bytes.
        BrokenOffError: it did not arrive, or not in time.
    """
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    data = bytearray()
    with _arriving():
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
        BrokenOffError: it was cut, or nothing came for a minute.
    """
    stream = request.content.iter_chunked(_PIECE)
    while True:
        with _arriving():
            async with asyncio.timeout(_PATIENCE):
                piece = await anext(stream, b"")
        if not piece:
            return
        yield piece


async def parts(request: web.Request, limit: int, most: int) -> AsyncIterator[tuple[str, bytes]]:
    """The parts of a multipart body as they arrive: `Content-Location`, and the bytes.

    Raises:
        InvalidInputError: no such body, more than `most` parts, or one without a place.
        TooLargeError: a part of more than `limit` bytes.
        BrokenOffError: as `pieces`.
    """
    reader = await _multipart(request)
    for _ in range(most):
        part = await _arrived(reader.next())
        if part is None:
            return
        if not isinstance(part, BodyPartReader) or CONTENT_LOCATION not in part.headers:
            raise InvalidInputError(
                "A part of the body does not say by Content-Location what it is."
            )
        data = bytearray()
        while piece := await _arrived(part.read_chunk(_PIECE)):
            data += piece
            if len(data) > limit:
                raise _too_large(limit)
        yield part.headers[CONTENT_LOCATION], bytes(data)
    if await _arrived(reader.next()) is not None:
        raise InvalidInputError(f"The body has more than {most} parts.")


async def _multipart(request: web.Request) -> MultipartReader:
    if not request.content_type.startswith("multipart/"):
        message = f"The body is declared as {request.content_type}."
        raise InvalidInputError(message, hint="Send Content-Type: multipart/mixed.")
    try:
        return await request.multipart()
    except ValueError as error:
        raise InvalidInputError(f"The body's parts cannot be told apart: {error}.") from None


async def _arrived(arriving: Awaitable[Arrived]) -> Arrived:
    try:
        with _arriving():
            async with asyncio.timeout(_PATIENCE):
                return await arriving
    except ValueError as error:
        raise InvalidInputError(f"The body's parts cannot be told apart: {error}.") from None


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"The body is larger than the {limit} bytes that are allowed.")
