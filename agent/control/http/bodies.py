"""Reading request bodies: whole ones within a limit, streams as they come, neither for ever."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from aiohttp import ClientError, StreamReader, web
from aiohttp.http_exceptions import LineTooLong

from agent.control.files.verifying import TooLargeError
from agent.model.errors import InvalidInputError, LaunchError

Place = TypeVar("Place")

#: Seconds for a whole body, and for the next piece of a stream.
_PATIENCE: Final = 60.0
_PIECE: Final = 256 * 1024
_FRAME: Final = re.compile(rb"([0-9]{1,15}) ([!-~]+)\n")


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


async def framed(
    request: web.Request, limit: int, most: int, place: Callable[[str], Place]
) -> AsyncIterator[tuple[Place, bytes]]:
    """Many contents in one body, as they arrive: each behind a line `SIZE NAME`.

    `place` tells what a name stands for; what it raises comes before any byte is waited for.

    Raises:
        InvalidInputError: no such line where one must be, or more than `most` contents.
        TooLargeError: a content of more than `limit` bytes.
        BrokenOffError: as `pieces`.
    """
    for _ in range(most):
        line = await _arrived(request.content.readuntil())
        if not line:
            return
        size, name = _frame(line)
        if size > limit:
            raise _too_large(limit)
        yield place(name), await _exactly(request.content, size)
    if await _arrived(request.content.read(1)):
        raise InvalidInputError(f"The body has more than {most} contents.")


def _frame(line: bytes) -> tuple[int, str]:
    found = _FRAME.fullmatch(line)
    if found is None:
        shown = line[:80].decode("ascii", "replace")
        message = f"The body has '{shown}' where a line with size and address must be."
        raise InvalidInputError(message)
    return int(found[1]), found[2].decode()


async def _exactly(stream: StreamReader, size: int) -> bytes:
    """So many bytes, however slowly they come."""
    data = bytearray()
    while len(data) < size:
        piece = await _arrived(stream.read(size - len(data)))
        if not piece:
            raise InvalidInputError("The body ends in the middle of a content.")
        data += piece
    return bytes(data)


async def _arrived(arriving: Awaitable[bytes]) -> bytes:
    try:
        with _arriving():
            async with asyncio.timeout(_PATIENCE):
                return await arriving
    except (LineTooLong, ValueError):  # the latter by older versions of aiohttp
        raise InvalidInputError("The body has an endless line.") from None


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"The body is larger than the {limit} bytes that are allowed.")
