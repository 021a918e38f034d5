"""Logs of attempts over HTTP, as their writer needs them; people read them by the console."""

from typing import Final

from agent.model.errors import ServerError
from agent.model.work import Lease
from agent.ports.queue import Channel
from agent.remote.client import Answer, GraphQLClient

_APPEND: Final = 30.0
_END: Final = "Launch-Log-End"


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


def _path(item_id: str, attempt: int, channel: Channel) -> str:
    return f"/launch/items/{item_id}/attempts/{attempt}/logs/{channel}"


def _end(answer: Answer) -> int:
    text = answer.headers.get(_END, "")
    if not text.isdigit():
        message = f"The server's answer about a log lacks the header {_END}."
        raise ServerError(message)
    return int(text)
