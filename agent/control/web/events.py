"""Server-sent events: a page hears that something changed, and asks for its regions again.

A notice carries no data, so nothing is lost when several melt into one, and a browser that
comes back after a pause needs no history: the first notice of every connection makes it look.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from aiohttp import web

from agent.control.keys import PLANE, STOPPING, principal_of
from agent.control.services.notifications import Notifications, topic_entity, topic_item

#: So often something is sent, be it only a comment: a dead connection shows when written to.
HEARTBEAT_SECONDS: Final = 10.0
#: Changes within it melt into one notice.
_PAUSE_SECONDS: Final = 0.2
_CHANGED: Final = b"event: changed\ndata: 1\n\n"
_ALIVE: Final = b": alive\n\n"
_RETRY: Final = b"retry: 1000\n\n"


async def events(request: web.Request) -> web.StreamResponse:
    """`?item=ID`, `?entity=NAME`, or neither for all entities of the caller.

    With `beat=1` a heartbeat counts as a change, for pages that show how long ago an agent
    was heard of. `Last-Event-ID` is not needed and not minded.
    """
    topics = await _topics(request)
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    beat = request.query.get("beat") == "1"
    telling = asyncio.create_task(
        _tell(response, request.app[PLANE].notifications, topics, beat=beat)
    )
    stopping = asyncio.create_task(request.app[STOPPING].wait())
    try:
        await asyncio.wait({telling, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        telling.cancel()
        stopping.cancel()
        await asyncio.gather(telling, stopping, return_exceptions=True)
    return response


async def _topics(request: web.Request) -> list[str]:
    """What to listen to, if the caller may read it."""
    plane, principal = request.app[PLANE], principal_of(request)
    if item_id := request.query.get("item"):
        item = await plane.items.get(principal, item_id)
        return [topic_item(item.id)]
    if name := request.query.get("entity"):
        entity = await plane.accounts.entity(principal, name)
        return [topic_entity(entity.name)]
    return [topic_entity(entity.name) for entity in await plane.accounts.entities(principal)]


async def _tell(
    response: web.StreamResponse, notifications: Notifications, topics: Iterable[str], *, beat: bool
) -> None:
    with notifications.subscribe(topics) as subscription:
        try:
            await response.write(_RETRY + _CHANGED)
            while True:
                notified = await subscription.wait(HEARTBEAT_SECONDS)
                await response.write(_CHANGED if notified or beat else _ALIVE)
                await asyncio.sleep(_PAUSE_SECONDS)
        except ConnectionError:
            return
