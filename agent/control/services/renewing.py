"""Heartbeat, batch renewal, and goodbye, in one transaction."""

from collections.abc import Sequence
from typing import Final

from agent.control.services.context import Context
from agent.control.services.holding import is_holder
from agent.control.services.notifications import topic_entity
from agent.control.services.transitions import remark, requeue
from agent.control.store import agents, items
from agent.control.store.records import HeartbeatReply
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import InvalidInputError
from agent.model.phase import UNSTARTED_HELD, Phase
from agent.model.protocol import Condition, LeaseStatus
from agent.model.work import Lease

STATUSES: Final = ("POLLING", "RUNNING", "DRAINING", "KILLED")


def renew(
    tx: Tx,
    context: Context,
    agent: AnyRow,
    session: str,
    status: str,
    leases: Sequence[Lease],
    conditions: Sequence[Condition],
) -> HeartbeatReply:
    """See `Leases.renew`; the agent's row is locked.

    A superseded session only hears about its leases, which are fenced by their epochs: its
    heartbeat must not keep the new session's agent alive.
    """
    current = agent.session == session
    statuses = _extend(tx, context, agent, leases)
    if current:
        told = agents.stored_conditions(conditions if status != "KILLED" else ())
        agents.beat(tx, agent.id, status, told)
        if (agent.status, agent.conditions) != (status, told):
            tx.notify(topic_entity(agent.entity))
        if status == "KILLED":
            hand_back(tx, agent)
    return HeartbeatReply(statuses=statuses, current=current, stop=agent.stop)


def check_status(status: str) -> str:
    """A status that agents have.

    Raises:
        InvalidInputError
    """
    if status not in STATUSES:
        known = ", ".join(STATUSES)
        raise InvalidInputError(f"An agent cannot be '{status}'.", hint=f"Use {known}.")
    return status


def hand_back(tx: Tx, agent: AnyRow) -> None:
    """Put back what an agent that leaves has not started."""
    for row in items.held_by(tx, agent.id, lock=True):
        if Phase(row.phase) in UNSTARTED_HELD:
            text = f"agent {agent.name} left"
            requeue(tx, row, text, actor=agent.name, losses=row.lease_losses)


def _extend(
    tx: Tx, context: Context, agent: AnyRow, leases: Sequence[Lease]
) -> dict[str, LeaseStatus]:
    found = {row.id: row for row in items.rows(tx, {one.item_id for one in leases}, lock=True)}
    statuses: dict[str, LeaseStatus] = {}
    kept: list[AnyRow] = []
    for lease in leases:
        row = found.get(lease.item_id)
        if row is None or not is_holder(row, agent.id, lease):
            statuses[lease.item_id] = LeaseStatus.FENCED
            continue
        statuses[lease.item_id] = LeaseStatus.STOP if row.stop_requested else LeaseStatus.HELD
        kept.append(row)
    items.extend_leases(tx, [row.id for row in kept], tx.now + context.config.lease)
    for row in kept:
        if row.lost_contact_at is not None:
            remark(tx, row, "contact regained", actor=agent.name, lost_contact_at=None)
    return statuses
