"""Why an item waits, or how it ended, and what to do about it. Pure."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.control.store.agents import AgentRecord
from agent.control.store.items import ItemRecord
from agent.control.store.queues import QueueRecord
from agent.model.capacity import Capacity, Demand, fits
from agent.model.cause import MEANINGS, Cause
from agent.model.names import KUBERNETES
from agent.model.phase import TERMINAL, Phase
from agent.model.protocol import Condition, ConditionKind
from agent.model.units import format_size

_CAUSE_OF_CONDITION: Final = {
    ConditionKind.DISK_LOW: Cause.SCHEDULE_DISK,
    ConditionKind.ENGINE_UNREACHABLE: Cause.SCHEDULE_ENGINE,
    ConditionKind.BUILDER_UNREACHABLE: Cause.SCHEDULE_BUILDER,
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the situation is, why, and what to do."""

    cause: Cause
    summary: str
    remedy: str
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a live item depends on: its queue, the agents that serve it, the items before it."""

    queue: QueueRecord | None
    agents: tuple[AgentRecord, ...]
    ahead: int
    #: What is free now, by agent id, of agents that report a capacity.
    free: Mapping[str, Capacity] = field(default_factory=dict)
    #: Why a queued item that an agent had leased is back on its queue.
    why_requeued: str | None = None


def explain(item: ItemRecord, situation: Situation) -> Explanation:
    """Explain an item."""
    if item.phase in TERMINAL:
        return _ended(item)
    if item.phase is Phase.QUEUED:
        return _queued(item, situation)
    return _held(item)


def _ended(item: ItemRecord) -> Explanation:
    cause = item.cause or Cause.INTERNAL
    details = [item.message or "", *item.warnings]
    exit_code = f"exit code {item.exit_code}"
    if item.exit_code is not None and exit_code not in (item.message or ""):
        details.append(f"{exit_code.capitalize()}.")
    if item.agent_name:
        details.append(f"Attempt {item.attempt}, on agent {item.agent_name}.")
    return _explanation(item, cause, details)


def _held(item: ItemRecord) -> Explanation:
    details = [f"{item.agent_name or 'An agent'} holds it; it is {item.phase.word}."]
    if item.activity:
        details.append(f"Activity: {item.activity}.")
    if item.stop_requested:
        details.append("A stop was requested; its agent has not confirmed it yet.")
    details += item.warnings
    if item.lost_contact:
        details.append("Its agent stopped sending heartbeats: the job may still be running there.")
        after = "is retried" if item.on_lost == "retry" else "counts as lost"
        details.append(f"If they do not resume, the item {after}.")
        return _explanation(item, Cause.LOST_AGENT, details)
    return _explanation(item, item.cause or Cause.RUN_IN_PROGRESS, details)


def _queued(item: ItemRecord, situation: Situation) -> Explanation:
    details = list(item.warnings)
    if item.attempt > 1:
        details.append(f"This is attempt {item.attempt}.")
    if item.lease_losses:
        lost = f"Agents that were lost while they prepared it: {item.lease_losses}."
        details.append(lost)
    if situation.why_requeued:
        details.append(f"It is back on its queue: {situation.why_requeued.rstrip('.')}.")
    if situation.queue is not None and situation.queue.paused:
        return _explanation(item, Cause.SCHEDULE_PAUSED, details)
    if item.not_before is not None:
        details.append(f"It can be claimed from {item.not_before:%Y-%m-%d %H:%M:%S} UTC on.")
        return _explanation(item, Cause.SCHEDULE_BACKOFF, details)
    live = [agent for agent in situation.agents if agent.live]
    if not live:
        details += _not_live(situation.agents)
        return _explanation(item, Cause.SCHEDULE_NO_AGENT, details)
    claiming = [agent for agent in live if agent.stop is None and agent.status != "DRAINING"]
    if not claiming:
        names = ", ".join(agent.name for agent in live)
        details.append(f"Shutting down: {names}.")
        return _explanation(item, Cause.SCHEDULE_NO_AGENT, details)
    mismatches = [_mismatch(item, agent) for agent in claiming]
    able = [one for one, mismatch in zip(claiming, mismatches, strict=True) if mismatch is None]
    unable = [mismatch for mismatch in mismatches if mismatch is not None]
    if not able:
        return _explanation(item, Cause.SCHEDULE_CAPACITY, [*details, *unable])
    if situation.ahead:
        details.append(f"{situation.ahead} items of this queue come first.")
    cause, active_conditions = _not_claimed(item, able, situation.free)
    return _explanation(item, cause, [*details, *unable, *active_conditions])


def _not_claimed(
    item: ItemRecord, able: list[AgentRecord], free: Mapping[str, Capacity]
) -> tuple[Cause, list[str]]:
    """Why none of the agents that could run the item has claimed it, and their conditions."""
    conditions = [(agent, one) for agent in able for one in _conditions(item, agent)]
    active_conditions = [
        f"Agent {agent.name} cannot claim it now: {one.message}" for agent, one in conditions
    ]
    without_condition = [agent for agent in able if not _conditions(item, agent)]
    if not without_condition:
        return _CAUSE_OF_CONDITION[conditions[0][1].kind], active_conditions
    busy = all(_is_busy(item, agent, free.get(agent.id)) for agent in without_condition)
    return Cause.SCHEDULE_BUSY if busy else Cause.SCHEDULE_WAITING, active_conditions


def _conditions(item: ItemRecord, agent: AgentRecord) -> tuple[Condition, ...]:
    """What keeps an agent from claiming an item that it could run."""
    resource = item.resource or next(iter(agent.resources), None)
    return tuple(one for one in agent.conditions if one.prevents_claims_for(resource))


def _is_busy(item: ItemRecord, agent: AgentRecord, free: Capacity | None) -> bool:
    """Whether the item does not fit into the agent's free capacity."""
    return agent.status == "RUNNING" if free is None else not fits(item.demand, free)


def _not_live(agents: tuple[AgentRecord, ...]) -> list[str]:
    return [
        f"Agent {agent.name} on {agent.hostname} "
        f"{'sent its last heartbeat' if agent.lost else 'shut down'} "
        f"at {agent.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC."
        for agent in agents
    ]


def _mismatch(item: ItemRecord, agent: AgentRecord) -> str | None:
    """Why an agent could not run the item even when idle."""
    if item.resource is not None and agent.resources and item.resource not in agent.resources:
        offered = ", ".join(agent.resources)
        return f"Agent {agent.name} offers {offered}, and the job needs {item.resource}."
    # A cluster places jobs by itself: the agent's own machine does not limit them.
    whole = None if item.resource == KUBERNETES else agent.capacity
    short = [] if whole is None else _shortages(item.demand, whole)
    return f"Agent {agent.name} offers {', '.join(short)}." if short else None


def _shortages(demand: Demand, whole: Capacity) -> list[str]:
    short: list[str] = []
    if demand.cpus is not None and whole.cpus is not None and demand.cpus > whole.cpus:
        short.append(f"{whole.cpus:g} of {demand.cpus:g} cpus asked for")
    if demand.memory is not None and whole.memory is not None and demand.memory > whole.memory:
        have, asked = format_size(whole.memory), format_size(demand.memory)
        short.append(f"{have} of {asked} memory asked for")
    if demand.gpus > len(whole.gpus):
        short.append(f"{len(whole.gpus)} of {demand.gpus} GPUs asked for")
    return short


def _explanation(item: ItemRecord, cause: Cause, details: list[str]) -> Explanation:
    meaning = MEANINGS[cause]
    queue = shlex.quote(item.queue)
    if item.entity != item.author:
        # Commands mean their user's own entity where none is named.
        queue = f"{queue} -e {item.entity}"
    remedy = re.sub(r"\bID\b", item.id, meaning.remedy)
    remedy = re.sub(r"\bQUEUE\b", lambda _: queue, remedy)
    unique = tuple(dict.fromkeys(line for line in details if line))
    return Explanation(cause, meaning.summary, remedy, unique)
