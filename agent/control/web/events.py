"""Server-sent events that tell a page to fetch its regions again.

An event carries no data, so several changes can be sent as one, and a browser that
reconnects needs no history: the first event of every connection makes the page fetch.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web

from agent.control.middleware.access import authenticate
from agent.control.request_data import PLANE, STOPPING, WAITED, principal_of
from agent.control.services.notifications import (
    Notifications,
    topic_entity,
    topic_item,
    topic_project,
    topic_run,
)
from agent.model.errors import LaunchError, NotFoundError

#: Seconds after which something is sent, if only a comment: writing detects dead connections.
_HEARTBEAT_SECONDS: Final = 10.0
#: Seconds after which the reader's rights are looked at again.
_RIGHTS_SECONDS: Final = 5.0
#: Changes within these seconds are sent as one event.
_PAUSE_SECONDS: Final = 0.2
_CHANGED: Final = b"event: changed\ndata: 1\n\n"
_COMMENT: Final = b": alive\n\n"
_RETRY: Final = b"retry: 1000\n\n"


async def events(request: web.Request) -> web.StreamResponse:
    """Changes of what the query names, or of all entities.

    That is an item (`item=ID`), a run (`run=ENTITY/PROJECT/NAME`), the runs of a project
    (`project=ENTITY/PROJECT`), or an entity (`entity=NAME`).

    With `heartbeats=1` a heartbeat counts as a change, for pages that show how old an agent's
    last heartbeat is. `Last-Event-ID` is ignored.
    """
    request[WAITED] = True
    topics = await _topics(request)
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    heartbeats = request.query.get("heartbeats") == "1"
    notifications = request.app[PLANE].notifications
    tasks: set[asyncio.Task[Any]] = {
        asyncio.create_task(_send(response, notifications, topics, heartbeats=heartbeats)),
        asyncio.create_task(_until_rights_change(request, topics)),
        asyncio.create_task(request.app[STOPPING].wait()),
    }
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return response


async def _until_rights_change(request: web.Request, topics: list[str]) -> None:
    """Return once key, session or role no longer allow these topics, or allow others.

    A browser that may come back does so at once, and gets the topics of then.
    """
    while True:
        await asyncio.sleep(_RIGHTS_SECONDS)
        try:
            await authenticate(request)
            if await _topics(request) != topics:
                return
        except LaunchError:
            return


async def _topics(request: web.Request) -> list[str]:
    """Topics of the changes that were asked for, if the caller may read them."""
    plane, principal = request.app[PLANE], principal_of(request)
    if item_id := request.query.get("item"):
        item = await plane.items.get(principal, item_id)
        return [topic_item(item.id)]
    if place := request.query.get("run"):
        return [await _topic_of_run(request, place)]
    if place := request.query.get("project"):
        owner, _, project = place.partition("/")
        if await plane.projects.get(principal, owner, project) is None:
            raise NotFoundError(f"There is no project '{place}', or you may not read it.")
        return [topic_project(owner, project)]
    if name := request.query.get("entity"):
        entity = await plane.accounts.entity(principal, name)
        return [topic_entity(entity.name)]
    return [topic_entity(entity.name) for entity in await plane.accounts.entities(principal)]


async def _topic_of_run(request: web.Request, place: str) -> str:
    entity, _, rest = place.partition("/")
    project, _, name = rest.partition("/")
    run = await request.app[PLANE].runs.get(principal_of(request), entity, project, name)
    if run is None:
        raise NotFoundError(f"There is no run '{place}', or you may not read it.")
    return topic_run(run.id)


async def _send(
    response: web.StreamResponse,
    notifications: Notifications,
    topics: Iterable[str],
    *,
    heartbeats: bool,
) -> None:
    with notifications.subscribe(topics) as subscription:
        try:
            await response.write(_RETRY + _CHANGED)
            while True:
                changed = await subscription.wait(_HEARTBEAT_SECONDS)
                await response.write(_CHANGED if changed or heartbeats else _COMMENT)
                await asyncio.sleep(_PAUSE_SECONDS)
        except ConnectionError:
            return
