"""The pages of agents: lists, and one agent, which can be told to shut down."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn
from urllib.parse import urlencode

from aiohttp import web

from agent.control.auth.policy import Action, Policy, Principal
from agent.control.request_data import PLANE, principal_of
from agent.control.services.assembly import Services
from agent.control.store.agents import AgentRecord, StopMode
from agent.control.store.items import ItemRecord
from agent.control.web.filters import size
from agent.control.web.rendering import page
from agent.model.errors import NotFoundError

#: How long an agent that stopped or was lost is still shown.
_SHOWN_FOR: Final = timedelta(days=1)


async def all_agents(request: web.Request) -> web.StreamResponse:
    """Agents of all entities, or of one, with the jobs that they have."""
    plane, principal = request.app[PLANE], principal_of(request)
    entities = [each.name for each in await plane.accounts.entities(principal)]
    chosen = request.query.get("entity") or None
    shown = []
    for entity in [chosen] if chosen else entities:
        agents = recent(await plane.agents.list(principal, entity), datetime.now(UTC))
        shown.append((entity, await with_items(plane, principal, agents)))
    topic = {"entity": chosen} if chosen else {}
    return page(
        request,
        "agents.html",
        urlencode(topic | {"heartbeats": "1"}),
        entities=entities,
        chosen=chosen,
        shown=shown,
    )


async def with_items(
    plane: Services, principal: Principal, agents: Iterable[AgentRecord]
) -> list[tuple[AgentRecord, tuple[ItemRecord, ...]]]:
    """Each agent with the items that it holds."""
    return [(each, await plane.items.held_by(principal, each.id)) for each in agents]


async def agent(request: web.Request) -> web.StreamResponse:
    """One agent and its running jobs."""
    plane, principal = request.app[PLANE], principal_of(request)
    record = await plane.agents.get(principal, request.match_info["id"])
    if record is None:
        message = f"There is no agent '{request.match_info['id']}', or you may not see it."
        raise NotFoundError(message)
    return page(
        request,
        "agent.html",
        urlencode({"entity": record.entity, "heartbeats": "1"}),
        agent=record,
        capacity=capacity(record),
        may_shut_down=_may_shut_down(principal, record),
        items=await plane.items.held_by(principal, record.id),
    )


async def drain(request: web.Request) -> web.StreamResponse:
    """Let the agent finish its jobs and shut down; redirects to its page."""
    await _shut_down(request, "DRAIN")


async def stop(request: web.Request) -> web.StreamResponse:
    """Let the agent stop its jobs and shut down; redirects to its page."""
    await _shut_down(request, "STOP")


async def _shut_down(request: web.Request, mode: StopMode) -> NoReturn:
    agents = request.app[PLANE].agents
    record = await agents.stop(principal_of(request), request.match_info["id"], mode)
    raise web.HTTPSeeOther(f"/launch/agents/{record.id}")


def _may_shut_down(principal: Principal, agent: AgentRecord) -> bool:
    """Whether to offer a shutdown; the service decides."""
    allowed = Policy().allows(principal, agent.entity, Action.MANAGE_AGENTS)
    return allowed and agent.status != "KILLED" and agent.stop != "STOP"


def recent(agents: Iterable[AgentRecord], now: datetime) -> tuple[AgentRecord, ...]:
    """Live agents, then those that stopped or were lost within a day."""
    shown = [a for a in agents if a.live or now - a.heartbeat_at < _SHOWN_FOR]
    return tuple(sorted(shown, key=lambda agent: not agent.live))


def capacity(agent: AgentRecord) -> tuple[tuple[str, str], ...]:
    """The capacity of an agent, name and value."""
    offered = agent.capacity
    rows = [("Runners", ", ".join(agent.resources))]
    if offered is not None:
        rows += [
            ("Jobs at a time", "any number" if offered.slots is None else str(offered.slots)),
            ("Cores", "" if offered.cpus is None else f"{offered.cpus:g}"),
            ("Memory", "" if offered.memory is None else size(offered.memory)),
            ("GPUs", ", ".join(offered.gpus)),
        ]
    return tuple((name, value) for name, value in rows if value)
