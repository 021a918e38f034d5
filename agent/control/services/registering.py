"""An agent process announces itself, in one transaction."""

from collections.abc import Sequence
from typing import Any, Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.context import Context, serves
from agent.control.services.granting import adopt
from agent.control.services.notifications import topic_agent, topic_entity
from agent.control.services.queues import queue_on_demand
from agent.control.store import accounts, agents, items, queues
from agent.control.store.ids import new_id
from agent.control.store.records import (
    AgentProtocol,
    AgentRecord,
    ClaimRecord,
    QueueRecord,
    RegisteredAgent,
    Registration,
)
from agent.control.store.tables import to_datetime
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import ConflictError, InvalidInputError
from agent.model.phase import MAY_RUN, Phase

_LONGEST: Final = 128


def register(
    tx: Tx, context: Context, principal: Principal, hello: Registration
) -> RegisteredAgent:
    """See `Agents.register`. The entity's row is locked: names are decided one at a time."""
    _check(hello)
    entity = context.existing(tx, principal, hello.entity, Action.RUN_AGENT)
    accounts.entity(tx, entity, lock=True)
    _refuse_rival(tx, context, entity, hello)
    served = _queues(tx, context, principal, entity, hello)
    agent = _stored(tx, principal, entity, hello)
    agents.serve(tx, agent.id, [queue.id for queue in served])
    held = _held(tx, context, principal, agent)
    tx.notify(topic_entity(entity), topic_agent(agent.id))
    return RegisteredAgent(
        agent=_record(tx, context, agent.id),
        control_plane_id=context.control_plane_id,
        heartbeat_seconds=context.config.heartbeat,
        lease_seconds=context.config.lease,
        held=held,
    )


def _check(hello: Registration) -> None:
    if not 0 < len(hello.name) <= _LONGEST:
        raise InvalidInputError(f"'{hello.name}' cannot be the name of an agent.")
    if not hello.identity or not hello.session:
        raise InvalidInputError("An agent needs an identity and a session.")
    if not hello.queues:
        raise InvalidInputError(
            "The agent serves no queue.", hint="Name one: `launch-agent --queue default`."
        )
    if not hello.resources:
        raise InvalidInputError(
            f"Agent '{hello.name}' offers no runner.",
            hint="Start a container engine, or enable `runners.local-process`.",
        )


def _refuse_rival(tx: Tx, context: Context, entity: str, hello: Registration) -> None:
    """A name belongs to the installation that lives under it."""
    silent_since = tx.now - context.config.agent_timeout
    for rival in agents.rivals(tx, entity, hello.name, hello.identity):
        if rival.status == "KILLED" or agents.is_lost(rival, silent_since):
            continue
        seen = f"{to_datetime(rival.heartbeat_at):%Y-%m-%d %H:%M:%S} UTC"
        raise ConflictError(
            f"Another agent called '{hello.name}' is alive, on {rival.hostname}; "
            f"its last heartbeat came at {seen}.",
            hint="Give this one another name (`--name`), or stop that one.",
        )


def _queues(
    tx: Tx, context: Context, principal: Principal, entity: str, hello: Registration
) -> Sequence[QueueRecord]:
    """The queues, each with a resource: one that has none takes what this agent offers first."""
    for name in hello.queues:
        serves(principal, name)
    found = [queue_on_demand(tx, context, principal, entity, name) for name in hello.queues]
    for queue in found:
        queues.fill_resource(tx, queue.id, hello.resources[0])
    return found


def join_queues(tx: Tx, agent: AnyRow, names: Sequence[str]) -> bool:
    """Let a registered agent serve further queues; false when none of them exists."""
    found = [queues.by_name(tx, agent.entity, name) for name in names]
    joined = [queue for queue in found if queue is not None]
    for queue in joined:
        agents.join(tx, agent.id, queue.id)
        if agent.resources:
            queues.fill_resource(tx, queue.id, agent.resources[0])
    if joined:
        tx.notify(topic_entity(agent.entity))
    return bool(joined)


def _stored(tx: Tx, principal: Principal, entity: str, hello: Registration) -> AnyRow:
    """The agent's row, under the new session."""
    capacity = hello.capacity
    values: dict[str, Any] = {
        "name": hello.name,
        "hostname": hello.hostname,
        "version": hello.version,
        "session": hello.session,
        "backend": hello.backend,
        "key_id": principal.key_id,
        "resources": list(hello.resources),
        "capacity": {
            "slots": capacity.slots,
            "cpus": capacity.cpus,
            "memory": capacity.memory,
            "gpus": list(capacity.gpus),
        },
        "config": hello.config,
        "status": "POLLING",
        "conditions": None,
    }
    known = agents.by_identity(tx, entity, hello.identity)
    if known is None:
        agent_id = new_id()
        fixed = {"id": agent_id, "entity": entity, "identity": hello.identity}
        agents.insert(tx, {**values, **fixed, "protocol": AgentProtocol.LAUNCH.value})
    else:
        agent_id = known.id
        # A repetition by the same process must not forget that it was asked to leave.
        stop = known.stop if known.session == hello.session else None
        agents.change(tx, agent_id, {**values, "stop": stop, "heartbeat_at": tx.now})
    return agents.require(tx, agent_id)


def _held(tx: Tx, context: Context, principal: Principal, agent: AnyRow) -> tuple[ClaimRecord, ...]:
    """What this installation held, and what others of its backend left running.

    Identity and backend are the caller's own words: a key gets nothing by them from queues
    that it is not bound to.
    """
    taken = [
        adopt(tx, context, row, agent, f"adopted by a new session of {agent.name}")
        for row in _held_from(tx, principal, agent.id)
    ]
    if agent.backend is None:
        return tuple(taken)
    silent_since = tx.now - context.config.agent_timeout
    for other in agents.on_backend(tx, agent.entity, agent.backend, agent.id):
        if other.status != "KILLED" and not agents.is_lost(other, silent_since):
            continue
        left = [row for row in _held_from(tx, principal, other.id) if Phase(row.phase) in MAY_RUN]
        text = f"adopted from {other.name}, which used the same backend"
        taken += [adopt(tx, context, row, agent, text) for row in left]
    return tuple(taken)


def _held_from(tx: Tx, principal: Principal, agent_id: str) -> list[AnyRow]:
    rows = items.held_by(tx, agent_id, lock=True)
    return [row for row in rows if principal.queues is None or row.queue in principal.queues]


def _record(tx: Tx, context: Context, agent_id: str) -> AgentRecord:
    rows = [agents.require(tx, agent_id)]
    return agents.records(tx, rows, context.config.agent_timeout)[0]
