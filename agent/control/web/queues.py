"""The overview of all queues, and the page of a queue."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from agent.config.document import format_yaml
from agent.control.request_data import PLANE, principal_of
from agent.control.store.agents import AgentRecord
from agent.control.store.queues import QueueRecord
from agent.control.web.agents import recent, with_items
from agent.control.web.filters import queue_url
from agent.control.web.item_list import by_word, listed
from agent.control.web.queue_form import may_manage
from agent.control.web.rendering import page
from agent.model.phase import Phase

_TABS: Final = (("items", "Items"), ("agents", "Agents"), ("settings", "Settings"))


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue in the overview."""

    queue: QueueRecord
    #: `(first phase, number of items)` for each word that users see.
    counts: tuple[tuple[Phase, int], ...]
    agents: tuple[AgentRecord, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A template variable; `rule` is its JSON schema."""

    name: str
    rule: str
    description: str


async def home(_request: web.Request) -> web.StreamResponse:
    """`/` redirects to the overview."""
    raise web.HTTPFound("/launch")


async def overview(request: web.Request) -> web.StreamResponse:
    """Queues of all entities, or of one."""
    plane, principal = request.app[PLANE], principal_of(request)
    entities = [entity.name for entity in await plane.accounts.entities(principal)]
    chosen = request.query.get("entity") or None
    if chosen:
        await plane.accounts.entity(principal, chosen)
    shown = []
    for name in [chosen] if chosen else entities:
        found = await plane.queues.list(principal, name)
        counts = await plane.queues.counts(principal, [each.id for each in found])
        agents = recent(await plane.agents.list(principal, name), datetime.now(UTC))
        shown.append((name, queue_rows(found, counts, agents)))
    topic = {"entity": chosen} if chosen else {}
    return page(
        request,
        "launch.html",
        urlencode(topic | {"heartbeats": "1"}),
        entities=entities,
        chosen=chosen,
        shown=shown,
        changeable={name for name, _ in shown if may_manage(principal, name)},
    )


def queue_rows(
    queues: Iterable[QueueRecord],
    counts: Mapping[str, Mapping[Phase, int]],
    agents: Sequence[AgentRecord],
) -> tuple[QueueRow, ...]:
    """Queues with the number of their items and with the agents that serve them."""
    return tuple(
        QueueRow(
            queue,
            by_word(counts.get(queue.id, {})),
            tuple(agent for agent in agents if queue.id in agent.queue_ids),
        )
        for queue in queues
    )


async def short_queue(request: web.Request) -> web.StreamResponse:
    """`/launch/ENTITY/QUEUE`, which users type, redirects to the queue's page."""
    names = request.match_info
    raise web.HTTPFound(queue_url(names["entity"], names["queue"]))


async def queue(request: web.Request) -> web.StreamResponse:
    """One queue: its items, its agents, or its settings."""
    plane, principal = request.app[PLANE], principal_of(request)
    names = request.match_info
    record = await plane.queues.get(principal, names["entity"], names["queue"])
    tab = request.query.get("tab", "items")
    values: dict[str, Any]
    if tab == "agents":
        agents = await plane.agents.list(principal, record.entity, queue_id=record.id)
        shown = recent(agents, datetime.now(UTC))
        values = {"agents": await with_items(plane, principal, shown)}
    elif tab == "settings":
        template, as_json = await plane.checker.run(lambda: template_texts(record))
        values = {
            "template": template,
            "template_json": as_json,
            "variables": variables(record),
        }
    else:
        tab, values = "items", await _items_tab(request, record)
    topic = {"entity": record.entity} | ({"heartbeats": "1"} if tab == "agents" else {})
    may_change = may_manage(principal, record.entity)
    values |= {"queue": record, "tab": tab, "tabs": _TABS, "may_change": may_change}
    return page(request, "queue.html", urlencode(topic), **values)


async def _items_tab(request: web.Request, record: QueueRecord) -> dict[str, Any]:
    plane, principal = request.app[PLANE], principal_of(request)
    agents = await plane.agents.list(principal, record.entity, queue_id=record.id)
    served = any(agent.live for agent in agents)
    return {"served": served, **await listed(request, record.entity, record)}


def template_texts(queue: QueueRecord) -> tuple[str, str]:
    """The queue's template as YAML and as JSON; both empty when it sets nothing."""
    given = {key: value for key, value in queue.config.items() if value}
    arguments = given.get("resource_args")
    if not given or (list(given) == ["resource_args"] and not any((arguments or {}).values())):
        return "", ""
    return format_yaml(given), json.dumps(given, indent=2, ensure_ascii=False)


def variables(queue: QueueRecord) -> tuple[Variable, ...]:
    """The template variables that a submitter may set."""
    return tuple(
        Variable(name, json.dumps(_schema(given)), str(given.get("description") or ""))
        for name, given in queue.template_variables.items()
    )


def _schema(variable: Mapping[str, Any]) -> Any:
    """The variable's schema, which W&B's clients store as JSON text."""
    schema = variable.get("schema", {})
    try:
        return json.loads(schema) if isinstance(schema, str) else schema
    except ValueError:
        return schema
