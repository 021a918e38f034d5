"""The page of an agent, and which agents pages show."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from agent.control.app_keys import PLANE, principal_of
from agent.control.store.agents import AgentRecord
from agent.control.web.filters import size
from agent.control.web.rendering import page
from agent.model.errors import NotFoundError

#: How long an agent that stopped or was lost is still shown.
_SHOWN_FOR: Final = timedelta(days=1)


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
        items=await plane.items.held_by(principal, record.id),
    )


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
