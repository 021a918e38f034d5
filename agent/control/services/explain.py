"""One answer: why does it wait, or why did it fail, and what to do. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.control.store.agents import AgentRecord
from agent.control.store.items import ItemRecord
from agent.control.store.queues import QueueRecord
from agent.model.capacity import Capacity, Demand, fits
from agent.model.cause import MEANINGS, Cause
from agent.model.phase import TERMINAL, Phase
from agent.model.protocol import Condition, ConditionKind
from agent.model.units import format_size


@dataclass(frozen=True, slots=True)
class Explanation:
    """One answer: what the situation is, why, and what to do."""

    cause: Cause
    summary: str
    remedy: str
    details: tuple[str, ...]


_HINDRANCES: Final = {
    ConditionKind.DISK_LOW: Cause.SCHEDULE_DISK,
    ConditionKind.ENGINE_SILENT: Cause.SCHEDULE_ENGINE,
}


@dataclass(frozen=True, slots=True)
class Situation:
    """What bears on an item that is not over: its queue, who serves it, who comes first."""

    queue: QueueRecord | None
    agents: tuple[AgentRecord, ...]
    ahead: int
    #: What is free now, by agent id, of agents that say what they have.
    room: Mapping[str, Capacity] = field(default_factory=dict)


def explain(item: ItemRecord, situation: Situation) -> Explanation:
    """The situation of an item."""
    if item.phase in TERMINAL:
        return _over(item)
    if item.phase is Phase.QUEUED:
        return _waiting(item, situation)
    return _under_way(item)


def _over(item: ItemRecord) -> Explanation:
    cause = item.cause or Cause.INTERNAL
    details = [item.message or "", *item.warnings]
    told = f"exit code {item.exit_code}"
    if item.exit_code is not None and told not in (item.message or ""):
        details.append(f"{told.capitalize()}.")
    if item.agent_name:
        details.append(f"Attempt {item.attempt}, on agent {item.agent_name}.")
    return _told(item, cause, details)


def _under_way(item: ItemRecord) -> Explanation:
    details = [f"{item.agent_name or 'An agent'} holds it; it is {item.phase.word}."]
    if item.activity:
        details.append(f"It is at: {item.activity}.")
    if item.stop_requested:
        details.append("A stop was requested; its agent has not confirmed it yet.")
    details += item.warnings
    if item.lost_contact:
        details.append("Its agent is silent: the job may still be running there.")
        after = "is tried again" if item.on_lost == "retry" else "counts as lost"
        details.append(f"If the silence lasts, the item {after}.")
        return _told(item, Cause.LOST_AGENT, details)
    return _told(item, Cause.RUN_IN_PROGRESS, details)


def _waiting(item: ItemRecord, situation: Situation) -> Explanation:
    details = list(item.warnings)
    if item.attempt > 1:
        details.append(f"This is attempt {item.attempt}.")
    if item.lease_losses:
        details.append(f"Agents fell silent while preparing it: {item.lease_losses} so far.")
    if situation.queue is not None and situation.queue.paused:
        return _told(item, Cause.SCHEDULE_PAUSED, details)
    if item.not_before is not None:
        details.append(f"It may be taken from {item.not_before:%Y-%m-%d %H:%M:%S} UTC on.")
        return _told(item, Cause.SCHEDULE_BACKOFF, details)
    live = [agent for agent in situation.agents if agent.live]
    if not live:
        return _told(item, Cause.SCHEDULE_NO_AGENT, [*details, *_silent(situation.agents)])
    willing = [agent for agent in live if agent.stop is None and agent.status != "DRAINING"]
    if not willing:
        leaving = ", ".join(agent.name for agent in live)
        return _told(item, Cause.SCHEDULE_NO_AGENT, [*details, f"Leaving: {leaving}."])
    lacks = [_lack(item, agent) for agent in willing]
    able = [agent for agent, lack in zip(willing, lacks, strict=True) if lack is None]
    told = [lack for lack in lacks if lack is not None]
    if not able:
        return _told(item, Cause.SCHEDULE_CAPACITY, [*details, *told])
    if situation.ahead:
        details.append(f"{situation.ahead} items of this queue come first.")
    cause, troubles = _among(item, able, situation.room)
    return _told(item, cause, [*details, *told, *troubles])


def _among(
    item: ItemRecord, able: list[AgentRecord], room: Mapping[str, Capacity]
) -> tuple[Cause, list[str]]:
    """Why none of the agents that could run it has taken it, and what hinders which."""
    bars = [(agent, one) for agent in able for one in _bars(item, agent)]
    troubles = [f"Agent {agent.name} cannot take it now: {one.message}" for agent, one in bars]
    free = [agent for agent in able if not _bars(item, agent)]
    if not free:
        return _HINDRANCES[bars[0][1].kind], troubles
    busy = all(_is_busy(item, agent, room.get(agent.id)) for agent in free)
    return Cause.SCHEDULE_BUSY if busy else Cause.SCHEDULE_WAITING, troubles


def _bars(item: ItemRecord, agent: AgentRecord) -> tuple[Condition, ...]:
    """What keeps an agent from claiming the item, which it could run."""
    resource = item.resource or next(iter(agent.resources), None)
    return tuple(one for one in agent.conditions if one.bars(resource))


def _is_busy(item: ItemRecord, agent: AgentRecord, room: Capacity | None) -> bool:
    """Whether the item does not fit beside what the agent holds now."""
    return agent.status == "RUNNING" if room is None else not fits(item.demand, room)


def _silent(agents: tuple[AgentRecord, ...]) -> list[str]:
    return [
        f"Agent {agent.name} on {agent.hostname} {'was last heard of' if agent.lost else 'left'} "
        f"at {agent.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC."
        for agent in agents
    ]


def _lack(item: ItemRecord, agent: AgentRecord) -> str | None:
    """Why an agent could not take the item even when idle."""
    if item.resource is not None and agent.resources and item.resource not in agent.resources:
        offered = ", ".join(agent.resources)
        return f"Agent {agent.name} offers {offered}, and the job needs {item.resource}."
    short = [] if agent.capacity is None else _short(item.demand, agent.capacity)
    return f"Agent {agent.name} offers {', '.join(short)}." if short else None


def _short(demand: Demand, whole: Capacity) -> list[str]:
    short: list[str] = []
    if demand.cpus is not None and whole.cpus is not None and demand.cpus > whole.cpus:
        short.append(f"{whole.cpus:g} of {demand.cpus:g} cpus asked for")
    if demand.memory is not None and whole.memory is not None and demand.memory > whole.memory:
        have, asked = format_size(whole.memory), format_size(demand.memory)
        short.append(f"{have} of {asked} memory asked for")
    if demand.gpus > len(whole.gpus):
        short.append(f"{len(whole.gpus)} of {demand.gpus} GPUs asked for")
    return short


def _told(item: ItemRecord, cause: Cause, details: list[str]) -> Explanation:
    meaning = MEANINGS[cause]
    remedy = re.sub(r"\bQUEUE\b", item.queue, re.sub(r"\bID\b", item.id, meaning.remedy))
    kept = tuple(dict.fromkeys(line for line in details if line))
    return Explanation(cause, meaning.summary, remedy, kept)
