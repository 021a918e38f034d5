"""Entities with their queues, one queue, one agent."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from agent.control.auth.policy import Principal
from agent.control.keys import PLANE, principal_of
from agent.control.services.plane import Plane
from agent.control.store.records import AgentRecord, ItemRecord, QueueRecord
from agent.control.web import present
from agent.control.web.filters import queue_address
from agent.control.web.keys import RENDERER, viewer_name
from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.phase import PHASE_WORDS, Phase, phases_named

_PAGE: Final = 50
_TABS: Final = (("items", "Items"), ("agents", "Agents"), ("settings", "Settings"))


def show(request: web.Request, template: str, events: str, /, **values: Any) -> web.Response:
    """A page, or with `?fragment=1` only the regions that its script swaps in."""
    return request.app[RENDERER].page(
        template,
        user=viewer_name(request),
        events=f"/launch/events?{events}",
        fragment=request.query.get("fragment") == "1",
        **values,
    )


async def home(_request: web.Request) -> web.StreamResponse:
    """`/`: there is one thing to see."""
    raise web.HTTPFound("/launch")


async def launch(request: web.Request) -> web.StreamResponse:
    """Queues of all entities, or of one."""
    plane, principal = request.app[PLANE], principal_of(request)
    entities = [entity.name for entity in await plane.accounts.entities(principal)]
    chosen = request.query.get("entity") or None
    if chosen:
        await plane.accounts.entity(principal, chosen)
    shown = [chosen] if chosen else entities
    rows = [await _entity_rows(plane, principal, name) for name in shown]
    topic = {"entity": chosen} if chosen else {}
    return show(
        request,
        "launch.html",
        urlencode(topic | {"beat": "1"}),
        entities=entities,
        chosen=chosen,
        shown=rows,
    )


async def _entity_rows(plane: Plane, principal: Principal, name: str) -> present.EntityRows:
    queues = await plane.queues.list(principal, name)
    counts = await plane.queues.counts(principal, [queue.id for queue in queues])
    agents = present.recent(await plane.agents.list(principal, name), datetime.now(UTC))
    return present.EntityRows(name, present.queue_rows(queues, counts, agents))


async def short_queue(request: web.Request) -> web.StreamResponse:
    """`/launch/ENTITY/QUEUE`, as people type it; the true address cannot clash with others."""
    names = request.match_info
    raise web.HTTPFound(queue_address(names["entity"], names["queue"]))


async def queue(request: web.Request) -> web.StreamResponse:
    """One queue: its items, its agents, its settings."""
    plane, principal = request.app[PLANE], principal_of(request)
    names = request.match_info
    record = await plane.queues.get(principal, names["entity"], names["queue"])
    tab = request.query.get("tab", "items")
    if tab == "agents":
        values = await _agents_tab(plane, principal, record)
    elif tab == "settings":
        values = _settings_tab(record)
    else:
        tab, values = "items", await _items_tab(request, plane, principal, record)
    topic = {"entity": record.entity} | ({"beat": "1"} if tab == "agents" else {})
    return show(
        request, "queue.html", urlencode(topic), queue=record, tab=tab, tabs=_TABS, **values
    )


async def _items_tab(
    request: web.Request, plane: Plane, principal: Principal, record: QueueRecord
) -> dict[str, Any]:
    phases = _phases(request.query.getall("phase", []))
    after = request.query.get("after") or None
    page = await plane.items.list(
        principal,
        record.entity,
        queue_id=record.id,
        phases=phases or None,
        after=after,
        first=_PAGE,
    )
    counts = await plane.queues.counts(principal, [record.id])
    agents = await plane.agents.list(principal, record.entity, queue_id=record.id)
    words = tuple(dict.fromkeys(phase.word for phase in phases))
    filters = [("phase", word) for word in words]
    older = [*filters, ("after", page.end_cursor or "")]
    return {
        "items": page.rows,
        "words": words,
        "counts": present.ordered(counts.get(record.id, {})),
        "served": any(agent.live for agent in agents),
        "after": after,
        "first_page": f"?{urlencode(filters)}",
        "more": f"?{urlencode(older)}" if page.has_next else None,
    }


def _phases(words: Sequence[str]) -> list[Phase]:
    """The phases to show; none means all.

    Raises:
        InvalidInputError: there is no such phase.
    """
    found = {word: phases_named(word) for word in words}
    for word, phases in found.items():
        if not phases:
            hint = f"The phases are {', '.join(PHASE_WORDS)}."
            raise InvalidInputError(f"There is no phase '{word}'.", hint=hint)
    return [phase for phases in found.values() for phase in phases]


async def _agents_tab(plane: Plane, principal: Principal, record: QueueRecord) -> dict[str, Any]:
    agents = await plane.agents.list(principal, record.entity, queue_id=record.id)
    shown = present.recent(agents, datetime.now(UTC))
    return {"agents": [(agent, await _held(plane, principal, agent)) for agent in shown]}


async def _held(plane: Plane, principal: Principal, agent: AgentRecord) -> tuple[ItemRecord, ...]:
    return await plane.items.held_by(principal, agent.id)


def _settings_tab(record: QueueRecord) -> dict[str, Any]:
    template, template_json = present.template_texts(record)
    return {
        "template": template,
        "template_json": template_json,
        "variables": present.variables(record),
    }


async def agent(request: web.Request) -> web.StreamResponse:
    """One agent and what it holds."""
    plane, principal = request.app[PLANE], principal_of(request)
    record = await plane.agents.get(principal, request.match_info["id"])
    if record is None:
        message = f"There is no agent '{request.match_info['id']}', or you may not see it."
        raise NotFoundError(message)
    return show(
        request,
        "agent.html",
        urlencode({"entity": record.entity, "beat": "1"}),
        agent=record,
        queues=[(name, queue_address(record.entity, name)) for name in record.queue_names],
        capacity=present.capacity(record),
        items=await _held(plane, principal, record),
    )
