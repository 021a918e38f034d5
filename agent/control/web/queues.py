"""The overview of all queues, and the page of a queue."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from agent.config.document import format_yaml
from agent.control.app_keys import PLANE, principal_of
from agent.control.auth.policy import Principal
from agent.control.services.assembly import Services
from agent.control.store.agents import AgentRecord
from agent.control.store.queues import QueueRecord
from agent.control.web.agents import recent
from agent.control.web.filters import queue_url
from agent.control.web.rendering import page
from agent.model.errors import InvalidInputError
from agent.model.phase import PHASE_WORDS, Phase, phases_named

_PAGE: Final = 50
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


def by_word(counts: Mapping[Phase, int]) -> tuple[tuple[Phase, int], ...]:
    """The number of items by users' word, in the order of an item's life, without zeros.

    Each word is represented by the first phase that it names.
    """
    first: dict[str, Phase] = {}
    totals: Counter[str] = Counter()
    for phase in Phase:
        first.setdefault(phase.word, phase)
        totals[phase.word] += counts.get(phase, 0)
    return tuple((first[word], number) for word, number in totals.items() if number)


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
        jobs = [(each, await plane.items.held_by(principal, each.id)) for each in shown]
        values = {"agents": jobs}
    elif tab == "settings":
        template, as_json = template_texts(record)
        values = {
            "template": template,
            "template_json": as_json,
            "variables": variables(record),
        }
    else:
        tab, values = "items", await _items_tab(request, plane, principal, record)
    topic = {"entity": record.entity} | ({"heartbeats": "1"} if tab == "agents" else {})
    values |= {"queue": record, "tab": tab, "tabs": _TABS}
    return page(request, "queue.html", urlencode(topic), **values)


async def _items_tab(
    request: web.Request, plane: Services, principal: Principal, record: QueueRecord
) -> dict[str, Any]:
    phases = _phases(request.query.getall("phase", []))
    after = request.query.get("after") or None
    found = await plane.items.list(
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
    older = [*filters, ("after", found.end_cursor or "")]
    return {
        "items": found.rows,
        "words": words,
        "counts": by_word(counts.get(record.id, {})),
        "served": any(agent.live for agent in agents),
        "after": after,
        "first_page": f"?{urlencode(filters)}",
        "more": f"?{urlencode(older)}" if found.has_next else None,
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
