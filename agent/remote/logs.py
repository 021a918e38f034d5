"""Logs of attempts over HTTP: append by offset, read, follow."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from agent.model.errors import ServerError
from agent.model.work import Lease
from agent.ports.queue import Channel
from agent.remote.client import Answer, GraphQLClient
from agent.remote.failures import UnansweredError, rule_for

_APPEND: Final = 30.0
#: A follower that hears nothing for so long asks again from where it is; seconds.
_SILENCE: Final = 90.0
_END: Final = "Launch-Log-End"
_COMPLETE: Final = "Launch-Log-Complete"


@dataclass(frozen=True, slots=True)
class LogPage:
    """A part of a stored log."""

    data: bytes
    #: Bytes stored so far.
    end: int
    #: Whether nothing more will come.
    complete: bool


async def append_log(
    client: GraphQLClient, lease: Lease, channel: Channel, offset: int, data: bytes
) -> int:
    """Store bytes; returns the end of what is stored.

    Raises:
        FencedError: somebody else owns the attempt.
    """
    answer = await client.send(
        "POST",
        _path(lease.item_id, lease.attempt, channel),
        params={"epoch": lease.epoch, "offset": offset},
        body=data,
        headers={"Content-Type": "application/octet-stream"},
        deadline=_APPEND,
    )
    reply = answer.json()
    try:
        return int(reply["end"])
    except (KeyError, TypeError, ValueError):
        message = "The server's answer to a log lacks `end`."
        raise ServerError(message) from None


async def log_end(client: GraphQLClient, item_id: str, attempt: int, channel: Channel) -> int:
    """Bytes stored so far."""
    return _end(await client.send("HEAD", _path(item_id, attempt, channel)))


async def read_log(
    client: GraphQLClient, item_id: str, attempt: int, channel: Channel, offset: int, limit: int
) -> LogPage:
    """At most `limit` bytes from `offset`."""
    answer = await client.send(
        "GET", _path(item_id, attempt, channel), params={"offset": offset, "limit": limit}
    )
    complete = answer.headers.get(_COMPLETE, "").lower() in {"1", "true"}
    return LogPage(answer.body, _end(answer), complete)


async def follow_log(
    client: GraphQLClient,
    item_id: str,
    attempt: int,
    channel: Channel,
    *,
    offset: int = 0,
    patience: int = 10,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[bytes]:
    """Yield bytes from `offset` until the attempt is over and all has been read.

    A broken connection is taken up again where it broke; `patience` is how many times in a
    row without a byte between them, a second apart.

    Raises:
        NotFoundError: no such attempt.
        UnreachableError: patience is used up.
    """
    params: dict[str, str | int] = {"follow": 1}
    path = _path(item_id, attempt, channel)
    left = patience
    while True:
        params["offset"] = offset
        try:
            async with client.stream("GET", path, params=params, silence=_SILENCE) as response:
                async for piece in _pieces(response):
                    offset += len(piece)
                    left = patience
                    yield piece
                return
        except UnansweredError as error:
            left -= 1
            if left < 0 or not error.rule.allows(idempotent=True):
                raise
            await sleep(1.0)


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in response.content.iter_any():
            yield piece
    except (aiohttp.ClientError, TimeoutError) as error:
        message = f"The log's stream broke ({error or type(error).__name__})."
        raise UnansweredError(message, rule_for(error)) from error


def _path(item_id: str, attempt: int, channel: Channel) -> str:
    return f"/launch/items/{item_id}/attempts/{attempt}/logs/{channel}"


def _end(answer: Answer) -> int:
    text = answer.headers.get(_END, "")
    if not text.isdigit():
        message = f"The server's answer about a log lacks the header {_END}."
        raise ServerError(message)
    return int(text)
