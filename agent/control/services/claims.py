"""Claims of our agents: which items they are leased, and what they get of each."""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from agent.control.auth.policy import Action, Principal
from agent.control.auth.run_tokens import RunToken, create_token
from agent.control.services.context import ServiceContext, require_serves
from agent.control.services.notifications import topic_claim, topic_entity
from agent.control.services.submitted_keys import with_keys
from agent.control.services.transitions import end, move
from agent.control.store import agents, claimable, items, queues
from agent.control.store.agents import AgentProtocol
from agent.control.store.ids import new_run_name
from agent.control.store.items import ClaimRecord
from agent.control.store.tables import record_of
from agent.control.store.tx import AnyRow, Tx
from agent.model.capacity import Allocation, Capacity, Demand, allocate, fits, minus
from agent.model.cause import Cause
from agent.model.errors import FencedError, NotFoundError
from agent.model.phase import Phase
from agent.model.protocol import ClaimRequest
from agent.model.work import Lease


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What one search of a claim's queues gave."""

    claims: tuple[ClaimRecord, ...]
    #: Queues it is served from, paused ones included.
    queue_ids: tuple[str, ...]
    #: If nothing was found, claims with the same key would find nothing either. `None`: the queues
    #: were not searched, since the request was repeated or the agent was asked to stop.
    match_key: Hashable | None


def claim_now(
    tx: Tx, context: ServiceContext, principal: Principal, request: ClaimRequest, *, waited: bool
) -> ClaimResult:
    """Lease what fits now.

    It locks the agent's row, so a repeated request waits for the first one. After a wait, key
    and role are looked at again. It raises before it changes anything.

    Raises: see `Leases.claim`.
    """
    agent = context.agent(tx, principal, request.agent_id, lock=True)
    if agent.session != request.session:
        raise FencedError(f"A newer process has registered as agent '{agent.name}'.")
    if waited:
        context.require_still_allowed(tx, principal, agent.entity, Action.RUN_AGENT)
    served = _served_queues(tx, principal, agent, request.queues)
    queue_ids = tuple(row.id for row in served)
    repeated = items.claimed_by(tx, agent.id, request.request_id)
    if repeated or agent.stop is not None:
        claims = tuple(claim_record(tx, context, row.id) for row in repeated)
        return ClaimResult(claims, queue_ids, None)
    wanted = request.resources
    free = _without_leased_gpus(tx, agent, request.free)
    search = _Search(
        queue_ids=tuple(row.id for row in served if not row.paused),
        offered=tuple(one for one in agent.resources if wanted is None or one in wanted),
        first_resource=agent.resources[0] if agent.resources else None,
        self_scheduled=request.self_scheduled,
        free=free,
    )
    match_key = (queue_ids, search.match_key, None if free == request.free else agent.id)
    return ClaimResult(_lease_items(tx, context, agent, request, search), queue_ids, match_key)


@dataclass(frozen=True, slots=True)
class _Search:
    """What a claim may get: queues, resources, free capacity."""

    queue_ids: tuple[str, ...]
    #: Resources.
    offered: tuple[str, ...]
    #: That of items that name none.
    first_resource: str | None
    self_scheduled: tuple[str, ...]
    free: Capacity

    @property
    def without_resource(self) -> bool:
        """Whether items that name no resource are offered as well."""
        return self.offered[:1] == (self.first_resource,)

    @property
    def match_key(self) -> Hashable:
        """Equal where the same items of the same queues fit."""
        free = self.free
        room = (free.slots is None or free.slots > 0, free.cpus, free.memory, len(free.gpus))
        return (self.offered, self.first_resource, self.self_scheduled, room)


def _lease_items(
    tx: Tx, context: ServiceContext, agent: AnyRow, request: ClaimRequest, search: _Search
) -> tuple[ClaimRecord, ...]:
    """Lease items until the limit of the claim, or until no further one fits.

    An item without a resource takes the first one that the agent registered; a claim that
    leaves that one out does not get it.
    """
    free = search.free
    claims: list[ClaimRecord] = []
    while search.offered and len(claims) < request.max_items and fits(Demand(), free):
        item_id = claimable.lock_first_fitting(
            tx,
            search.queue_ids,
            search.offered,
            free,
            without_resource=search.without_resource,
            self_scheduled=search.self_scheduled,
        )
        if item_id is None:
            break
        row = items.with_specs(tx, item_id)
        if refuse_for_author(tx, context, row):
            continue
        resource = row.resource or agent.resources[0]
        counted = resource not in search.self_scheduled
        allocation = allocate(items.demand_of(row) if counted else Demand(), free)
        changes = {
            "epoch": row.epoch + 1,
            "agent_id": agent.id,
            "agent_name": agent.name,
            "protocol": AgentProtocol.LAUNCH.value,
            "request_id": request.request_id,
            "lease_expires_at": tx.now + context.config.lease,
            "allocation": asdict(allocation),
            "resource": resource,
            "run_name": row.run_name or new_run_name(),
        }
        move(tx, row, Phase.LEASED, actor=agent.name, text="claimed", changes=changes)
        leased = {**changes, "phase": Phase.LEASED.value, "token_epoch": row.epoch + 1}
        claims.append(_record(context, cast("Any", row)._replace(**leased)))
        free = minus(free, allocation)
    if claims:
        tx.notify(topic_claim(agent.id))
    return tuple(claims)


def refuse_for_author(tx: Tx, context: ServiceContext, row: AnyRow) -> bool:
    """End a queued item whose author lacks the rights to run it now; true when it was ended."""
    refusal = context.author_refusal(tx, row)
    if refusal is not None:
        end(tx, row, Phase.REFUSED, Cause.POLICY_RIGHTS, refusal)
    return refusal is not None


def claim_record(tx: Tx, context: ServiceContext, item_id: str) -> ClaimRecord:
    """A held item as its agent gets it; the same again for a repeated claim."""
    tx.flush()
    return _record(context, items.with_specs(tx, item_id))


def _record(context: ServiceContext, row: AnyRow) -> ClaimRecord:
    token = RunToken(row.attempt_id, row.token_epoch)
    return record_of(
        ClaimRecord,
        row,
        **with_keys(context.keys, row),
        lease=Lease(row.id, row.attempt, row.epoch),
        phase=Phase(row.phase),
        entity=row.run_entity,
        allocation=items.allocation_from(row.allocation) or Allocation(),
        run_token=create_token(context.keys.current, token),
    )


def _served_queues(
    tx: Tx, principal: Principal, agent: AnyRow, wanted: Sequence[str]
) -> list[AnyRow]:
    """The queues to claim from, paused ones included: they may be resumed.

    A queue that was removed does not keep the agent from the others, and is served again once
    there is a queue of its name.
    """
    registered = {row.name: row for row in queues.of_agent(tx, agent.id)}
    names = wanted or registered
    for name in names:
        require_serves(principal, name)
    unknown = [name for name in names if name not in registered]
    if unknown and _add_served_queues(tx, agent, unknown):
        registered = {row.name: row for row in queues.of_agent(tx, agent.id)}
    served = [registered[name] for name in names if name in registered]
    if not served:
        raise NotFoundError(
            f"None of the queues that agent '{agent.name}' serves exists: {', '.join(names)}.",
            hint="Create one: `launch queue create NAME`; the agent starts to serve it then.",
        )
    return served


def _add_served_queues(tx: Tx, agent: AnyRow, names: Sequence[str]) -> bool:
    """Let a registered agent serve further queues; false when none of them exists."""
    found = [queues.by_name(tx, agent.entity, name) for name in names]
    existing = [queue for queue in found if queue is not None]
    for queue in existing:
        agents.serve_also(tx, agent.id, queue.id)
        if agent.resources:
            queues.fill_resource(tx, queue.id, agent.resources[0])
    if existing:
        tx.notify(topic_entity(agent.entity))
    return bool(existing)


def _without_leased_gpus(tx: Tx, agent: AnyRow, free: Capacity) -> Capacity:
    """What the agent reports as free, without GPUs that items it holds are pinned to.

    1. A claim leases GPU 0; its reply is lost. 2. The agent claims again, under another
    request id, with GPU 0 still free as far as it knows. Two jobs must not get it.
    """
    if not free.gpus:
        return free
    held = [items.allocation_from(row.allocation) for row in items.held_by(tx, agent.id)]
    pinned = {gpu for allocation in held if allocation is not None for gpu in allocation.gpus}
    return replace(free, gpus=tuple(gpu for gpu in free.gpus if gpu not in pinned))
