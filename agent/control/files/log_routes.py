"""`POST|HEAD|GET /launch/items/{item}/attempts/{n}/logs/{channel}`."""

import asyncio
import re
from typing import Final

from aiohttp import web

from agent.control.bodies import read_bytes
from agent.control.middleware.access import authenticate
from agent.control.request_data import CONFIG, LOGS, PLANE, STOPPING, WAITED, principal_of
from agent.control.services.logs import LogKey, LogState
from agent.control.services.notifications import Subscription, topic_log
from agent.control.store.history import Channel
from agent.model.errors import AuthenticationError, InvalidInputError, LogFullError, NotFoundError
from agent.model.units import format_size
from agent.model.work import Lease

PATH: Final = "/launch/items/{item}/attempts/{attempt}/logs/{channel}"

_MAX_POST: Final = 4 * 1024**2
#: Seconds after which a followed log is read again, and the reader's rights are looked at again,
#: without a notification.
_POLL_SECONDS: Final = 5.0
_ID: Final = re.compile("[A-Za-z0-9]{1,64}")
#: Attempts fit into 32 bits, offsets and epochs into 64.
_NUMBER: Final = re.compile("[0-9]{1,9}")
_OFFSET: Final = re.compile("[0-9]{1,18}")
_CHANNELS: Final[dict[str, Channel]] = {"setup": "setup", "job": "job"}


async def append_log(request: web.Request) -> web.Response:
    """Store bytes at an offset; the response has the offset of the next byte.

    Bytes that are stored already are skipped. An offset below the one that was sent means that
    bytes before it are missing, and that nothing was stored.
    """
    key = _key(request)
    lease = Lease(key.item_id, key.attempt, _number(request, "epoch"))
    offset = _number(request, "offset")
    plane, principal = request.app[PLANE], principal_of(request)
    entity, end = await plane.logs.check_append(principal, lease, key.channel)
    data = await read_bytes(request, _MAX_POST)
    limit = request.app[CONFIG].max_log
    if offset + len(data) > limit:
        message = f"The control plane stores {format_size(limit)} of one log."
        raise LogFullError(message, hint="The limit is `control.max_log`.")
    fresh = data[end - offset :] if offset <= end else b""
    if fresh:
        async with plane.stored.arriving(entity) as arrival:
            arrival.add(len(fresh))
            end = await request.app[LOGS].append(principal, lease, key.channel, end, fresh)
    return web.json_response({"end": end})


async def read_log(request: web.Request) -> web.StreamResponse:
    """Bytes from an offset; with `follow=1` until the attempt is over; for HEAD only the end."""
    key = _key(request)
    offset = _number(request, "offset", 0)
    limit = _number(request, "limit", -1)
    state = await _state(request, key)
    response = web.StreamResponse(
        headers={
            "Launch-Log-End": str(state.end),
            "Launch-Log-Complete": "true" if state.complete else "false",
        }
    )
    response.content_type = "text/plain"
    response.charset = "utf-8"
    if request.method == "HEAD":
        await response.prepare(request)
    elif request.query.get("follow") == "1":
        request[WAITED] = True
        await response.prepare(request)
        await _follow(request, response, key, offset)
    else:
        stop = state.end if limit < 0 else min(state.end, offset + limit)
        response.content_length = max(0, stop - offset)
        await response.prepare(request)
        await _copy(request, response, key, offset, response.content_length)
    await response.write_eof()
    return response


async def _state(request: web.Request, key: LogKey) -> LogState:
    return await request.app[PLANE].logs.state(principal_of(request), key)


async def _follow(
    request: web.Request, response: web.StreamResponse, key: LogKey, offset: int
) -> None:
    """Send what comes until the attempt is over, all has been sent, or the server stops.

    It ends, too, when the reader's key, session or role is taken away. It subscribes before it
    reads, so that a change between a read and a wait is not missed.
    """
    stopping = asyncio.create_task(request.app[STOPPING].wait())
    try:
        with request.app[PLANE].notifications.subscribe([topic_log(key.item_id)]) as subscription:
            while not stopping.done():
                await authenticate(request)
                state = await _state(request, key)
                offset += await _copy(request, response, key, offset, state.end - offset)
                if state.complete and offset >= state.end:
                    return
                await _wait(subscription, stopping)
    except (AuthenticationError, NotFoundError):
        return
    finally:
        stopping.cancel()


async def _wait(subscription: Subscription, stopping: asyncio.Task[bool]) -> None:
    """Wait for a notification or the stop; cancels its task when the client disconnects."""
    waiting = asyncio.create_task(subscription.wait(_POLL_SECONDS))
    try:
        await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _copy(
    request: web.Request, response: web.StreamResponse, key: LogKey, offset: int, count: int
) -> int:
    sent = 0
    if count > 0:
        async for data in request.app[LOGS].read(key, offset, count):
            await response.write(data)
            sent += len(data)
    return sent


def _key(request: web.Request) -> LogKey:
    info = request.match_info
    channel = _CHANNELS.get(info["channel"])
    if channel is None or not _NUMBER.fullmatch(info["attempt"]) or not _ID.fullmatch(info["item"]):
        message = f"There is no log at {request.path}."
        raise InvalidInputError(message, hint="Channels are `setup` and `job`.")
    return LogKey(info["item"], int(info["attempt"]), channel)


def _number(request: web.Request, name: str, default: int | None = None) -> int:
    text = request.query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not _OFFSET.fullmatch(text):
        shown = "nothing" if text is None else f"'{text[:40]}'"
        raise InvalidInputError(f"`{name}` must be a whole number from 0 on; seen: {shown}.")
    return int(text)
