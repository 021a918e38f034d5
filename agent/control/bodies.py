"""Request bodies, read within limits of size and time: whole, in pieces, or several in one."""

import asyncio
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from aiohttp import ClientError, StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from multidict import MultiDict

from agent.model.errors import InvalidInputError, LaunchError, TooLargeError
from agent.model.json_values import check_text, decode

Target = TypeVar("Target")

#: Seconds for a whole body, and for the next piece of a stream.
_TIMEOUT: Final = 60.0
#: Bytes per second that a stream must have on average, after so many seconds.
_SLOWEST: Final = 4096
_SLOWEST_AFTER: Final = 60.0
_PIECE: Final = 256 * 1024
_FRAME: Final = re.compile(rb"([0-9]{1,15}) ([!-~]+)\n")


class IncompleteBodyError(LaunchError):
    """The request's body did not arrive in full."""

    code = "INCOMPLETE_BODY"


@contextmanager
def _receiving() -> Iterator[None]:
    """Turn timeouts and connection errors into `IncompleteBodyError`."""
    try:
        yield
    except TimeoutError:
        raise IncompleteBodyError("The request's body did not arrive in time.") from None
    except (ConnectionError, ClientError, web.RequestPayloadError) as error:
        raise IncompleteBodyError("The request's body was cut off.") from error


async def read_bytes(request: web.Request, limit: int) -> bytes:
    """The whole body, decompressed where it is declared as gzip.

    Raises:
        InvalidInputError: compressed in another way, or damaged.
        TooLargeError: more than `limit` bytes.
        IncompleteBodyError: the connection closed, or a minute passed.
    """
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    data = bytearray()
    gzip = _gzip(request)
    with _receiving():
        async with asyncio.timeout(_TIMEOUT):
            async for piece in request.content.iter_chunked(_PIECE):
                data += piece if gzip is None else _inflated(gzip, piece, limit + 1 - len(data))
                if len(data) > limit:
                    raise _too_large(limit)
    if gzip is not None and not gzip.eof:
        raise InvalidInputError("The body ends in the middle of its gzip data.")
    return bytes(data)


def _gzip(request: web.Request) -> "zlib._Decompress | None":
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding not in {"gzip", "identity"}:
        message = f"The body is compressed as '{encoding[:40]}'."
        raise InvalidInputError(message, hint="Send it as gzip, or as it is.")
    return zlib.decompressobj(16 + zlib.MAX_WBITS) if encoding == "gzip" else None


def _inflated(gzip: "zlib._Decompress", piece: bytes, limit: int) -> bytes:
    """At most so many bytes: a small body could become a very large one."""
    try:
        return gzip.decompress(piece, limit)
    except zlib.error:
        raise InvalidInputError("The body is not gzip, as its `Content-Encoding` says.") from None


async def read_json(request: web.Request, limit: int, *, of_runs: bool = False) -> Any:
    """The decoded body; bare NaN and Infinity pass.

    Raises:
        InvalidInputError: not declared as JSON, not JSON, or values that cannot be stored.
    """
    if request.content_type != "application/json":
        message = f"The body is declared as {request.content_type}."
        raise InvalidInputError(message, hint="Send Content-Type: application/json.")
    return decode(await read_bytes(request, limit), "The body", of_runs=of_runs)


async def read_form(request: web.Request) -> MultiDict[str]:
    """The fields of a form, as a browser sends it.

    Raises:
        InvalidInputError: not a form, or texts that cannot be stored.
        IncompleteBodyError: as `read_bytes`.
    """
    try:
        with _receiving():
            async with asyncio.timeout(_TIMEOUT):
                sent = await request.post()
    except (ValueError, LookupError):
        raise InvalidInputError("The body is not a form in UTF-8.") from None
    fields: MultiDict[str] = MultiDict()
    for name, value in sent.items():
        if not isinstance(value, str):
            raise InvalidInputError(f"The field '{name[:80]}' is a file, and none is expected.")
        check_text(name, "The name of a field")
        check_text(value, f"The field '{name[:80]}'")
        fields.add(name, value)
    return fields


async def pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body in pieces, as they arrive.

    Raises:
        IncompleteBodyError: the connection closed, or nothing arrived for a minute, or too little.
    """
    stream = request.content.iter_chunked(_PIECE)
    began, received = time.monotonic(), 0
    while True:
        with _receiving():
            async with asyncio.timeout(_TIMEOUT):
                piece = await anext(stream, b"")
        if not piece:
            return
        received += len(piece)
        _check_pace(began, received)
        yield piece


async def framed(
    request: web.Request, limit: int, max_count: int, target: Callable[[str], Target]
) -> AsyncIterator[tuple[Target, bytes]]:
    """Several files in one body, as they arrive: each after a line `SIZE NAME`.

    `target` maps a name to what is returned with the bytes; it is called before they are
    read, so that it can refuse a name.

    Raises:
        InvalidInputError: a line is missing or malformed, or more than `max_count` files.
        TooLargeError: a file of more than `limit` bytes.
        IncompleteBodyError: as `pieces`.
    """
    for _ in range(max_count):
        line = await _read(request.content.readuntil())
        if not line:
            return
        found = _FRAME.fullmatch(line)
        if found is None:
            shown = line[:80].decode("ascii", "replace")
            message = f"The body has '{shown}' where a line with size and name is expected."
            raise InvalidInputError(message)
        size = int(found[1])
        if size > limit:
            raise _too_large(limit)
        yield target(found[2].decode()), await _exactly(request.content, size)
    if await _read(request.content.read(1)):
        raise InvalidInputError(f"The body has more than {max_count} files.")


def _check_pace(began: float, received: int) -> None:
    """A client that sends a byte a minute must not hold a connection for ever."""
    if time.monotonic() - began > _SLOWEST_AFTER + received / _SLOWEST:
        raise IncompleteBodyError("The request's body arrives too slowly.")


async def _exactly(stream: StreamReader, size: int) -> bytes:
    data = bytearray()
    began = time.monotonic()
    while len(data) < size:
        piece = await _read(stream.read(size - len(data)))
        if not piece:
            raise InvalidInputError("The body ends in the middle of a file.")
        data += piece
        _check_pace(began, len(data))
    return bytes(data)


async def _read(pending: Awaitable[bytes]) -> bytes:
    try:
        with _receiving():
            async with asyncio.timeout(_TIMEOUT):
                return await pending
    except (LineTooLong, ValueError):  # ValueError: older versions of aiohttp
        raise InvalidInputError("A line of the body is too long.") from None


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"The body is larger than the limit of {limit} bytes.")
