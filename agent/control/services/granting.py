"""Handing items to agents: a fresh epoch with every grant and every adoption."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.control.auth.tokens import RunToken, mint
from agent.control.services.context import Context
from agent.control.services.transitions import move, remark
from agent.control.store import history, items
from agent.control.store.ids import new_run_name
from agent.control.store.records import AgentProtocol, ClaimRecord
from agent.control.store.tx import AnyRow, Tx
from agent.model.capacity import Allocation, Capacity, Demand, allocate, fits, minus
from agent.model.phase import Phase
from agent.model.work import Lease


@dataclass(frozen=True, slots=True)
class Wish:
    """What one claim asks for."""

    request_id: str
    free: Capacity
    max_items: int
    #: Narrows what the agent registered for; `None`: all of it.
    resources: Sequence[str] | None = None

    def takes(self, resource: str) -> bool:
        """Whether jobs for this resource are wanted."""
        return self.resources is None or resource in self.resources


def grant_items(
    tx: Tx,
    context: Context,
    agent: AnyRow,
    queue_ids: Sequence[str],
    wish: Wish,
) -> tuple[ClaimRecord, ...]:
    """Lease what fits, by priority and age; the agent's row is locked.

    An item that names no resource runs on what the agent offers first, and waits while the
    claim leaves that out.
    """
    offered = [one for one in agent.resources if wish.takes(one)]
    unnamed = offered[:1] == agent.resources[:1]
    room = _not_handed_out(tx, agent, wish.free)
    allocation: list[ClaimRecord] = []
    while offered and len(allocation) < wish.max_items and fits(Demand(), room):
        item_id = items.take(tx, queue_ids, offered, room, unnamed=unnamed)
        if item_id is None:
            break
        seen = items.require(tx, item_id)
        share = allocate(_demand(seen), room)
        _lease(tx, context, seen, agent, wish.request_id, share)
        allocation.append(claim_record(tx, context, item_id))
        room = minus(room, share)
    return tuple(allocation)


def adopt(tx: Tx, context: Context, seen: AnyRow, agent: AnyRow, text: str) -> ClaimRecord:
    """Give a held item to an agent under a fresh epoch, in the phase it is in.

    The token of the job that may be running already stays the same.
    """
    changes = {
        "epoch": seen.epoch + 1,
        "agent_id": agent.id,
        "agent_name": agent.name,
        "protocol": AgentProtocol.LAUNCH.value,
        "request_id": None,
        "lease_expires_at": tx.now + context.config.lease,
        "lost_contact_at": None,
    }
    remark(tx, seen, text, actor=agent.name, **changes)
    attempt = {key: changes[key] for key in ("epoch", "agent_id", "agent_name")}
    history.change_attempt(tx, seen.id, seen.attempt, attempt)
    return claim_record(tx, context, seen.id)


def claim_record(tx: Tx, context: Context, item_id: str) -> ClaimRecord:
    """What an agent gets to know about a held item; the same again for a repeated claim."""
    seen = items.whole(tx, item_id)
    attempt = history.require_attempt(tx, seen.id, seen.attempt)
    token = RunToken(attempt.id, attempt.token_epoch)
    return ClaimRecord(
        lease=Lease(seen.id, seen.attempt, seen.epoch),
        phase=Phase(seen.phase),
        entity=seen.run_entity,
        project=seen.project,
        queue=seen.queue,
        run_name=seen.run_name,
        name=seen.name,
        author=seen.author,
        priority=seen.priority,
        resource=seen.resource,
        run_spec=seen.run_spec,
        layers=seen.layers,
        allocation=items.allocation_from(seen.allocation) or Allocation(),
        run_token=mint(context.signing_key, token),
        lease_seconds=context.config.lease,
        stop_requested=seen.stop_requested,
        created_at=items.created(seen),
    )


def _lease(
    tx: Tx,
    context: Context,
    seen: AnyRow,
    agent: AnyRow,
    request_id: str,
    share: Allocation,
) -> None:
    epoch = seen.epoch + 1
    changes = {
        "epoch": epoch,
        "agent_id": agent.id,
        "agent_name": agent.name,
        "protocol": AgentProtocol.LAUNCH.value,
        "request_id": request_id,
        "lease_expires_at": tx.now + context.config.lease,
        "allocation": {"cpus": share.cpus, "memory": share.memory, "gpus": list(share.gpus)},
        "resource": seen.resource or agent.resources[0],
        "run_name": seen.run_name or new_run_name(),
    }
    move(tx, seen, Phase.LEASED, actor=agent.name, text="claimed", changes=changes)


def _not_handed_out(tx: Tx, agent: AnyRow, free: Capacity) -> Capacity:
    """What the agent says is free, without devices that its held items are pinned to.

    1. A claim takes GPU 0; its reply is lost. 2. The agent asks again, under another
    request id, with GPU 0 still free in its own books. Two jobs must not get it.
    """
    if not free.gpus:
        return free
    held = [items.allocation_from(row.allocation) for row in items.held_by(tx, agent.id)]
    pinned = {gpu for allocation in held if allocation is not None for gpu in allocation.gpus}
    return replace(free, gpus=tuple(gpu for gpu in free.gpus if gpu not in pinned))


def _demand(seen: AnyRow) -> Demand:
    return Demand(seen.demand_cpus or None, seen.demand_memory or None, seen.demand_gpus)
