"""Items: records and queries; changes are guarded by the row that was read."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import (
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    update,
)

from agent.control.store import stored_bytes
from agent.control.store.agents import AgentProtocol
from agent.control.store.prepared import Prepared
from agent.control.store.tables import (
    DEFERRED_ONLY,
    HELD_ONLY,
    QUEUED_ONLY,
    agents,
    attempts,
    items,
    record_of,
    to_datetime,
)
from agent.control.store.tx import AnyRow, Tx
from agent.model.capacity import Allocation, Demand
from agent.model.cause import Cause
from agent.model.phase import MAY_RUN, Phase, wandb_state
from agent.model.redact import MASK
from agent.model.spec import Json
from agent.model.work import Lease


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """One item of a queue. API keys inside the spec are masked."""

    id: str
    entity: str
    project: str
    #: Name of the queue, kept when the queue is deleted; `queue_id` is `None` then.
    queue: str
    queue_id: str | None
    phase: Phase
    attempt: int
    epoch: int
    name: str | None
    #: Its name, else that of its job, its image or its source.
    display_name: str
    #: `entity/project/name` of the job it was submitted with.
    job: str | None
    run_name: str | None
    author: str | None
    priority: int
    resource: str | None
    demand: Demand
    allocation: Allocation | None
    run_spec: Json
    facts: Json
    warnings: tuple[str, ...]
    activity: str | None
    agent_id: str | None
    agent_name: str | None
    protocol: AgentProtocol | None
    #: Of the outcome, or of a permitted attempt that its backend has not placed yet.
    cause: Cause | None
    message: str | None
    exit_code: int | None
    stop_requested: bool
    #: The agent of a permitted attempt stopped sending heartbeats: the job may still be running.
    lost_contact: bool
    #: Leases lost in a row before a start.
    lease_losses: int
    retries: int
    on_lost: Literal["fail", "retry"]
    enqueued_at: datetime
    #: It is not claimable before then.
    not_before: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def state(self) -> str:
        """The state that W&B's clients know."""
        return wandb_state(self.phase)


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """An item handed to an agent."""

    lease: Lease
    phase: Phase
    entity: str
    project: str
    queue: str
    run_name: str
    name: str | None
    author: str | None
    resource: str
    #: As submitted and merged, keys included: never show or log it.
    run_spec: Json = field(repr=False)
    #: `queue`, `job`, `submitter`: who set what.
    layers: dict[str, Json] = field(repr=False)
    allocation: Allocation
    run_token: str = field(repr=False)
    lease_losses: int
    stop_requested: bool


@dataclass(frozen=True, slots=True)
class PoppedItem:
    """What W&B's agents get from a pop."""

    item_id: str
    run_spec: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class Submission:
    """One run to be put on a queue."""

    entity: str | None
    project: str | None
    queue: str
    run_spec: Json = field(repr=False)
    template_variables: Json = field(default_factory=dict)
    #: `None` means 2.
    priority: int | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a submission would queue. Keys inside the spec are masked."""

    entity: str
    project: str
    #: Empty for a direct run.
    queue: str
    priority: int
    resource: str | None
    demand: Demand
    run_spec: Json
    #: What each layer set: `queue`, `job`, `submitter`.
    layers: dict[str, Json]
    warnings: tuple[str, ...]


#: Large columns that most transitions have no use for.
_LARGE: Final = frozenset({"run_spec", "layers", "template_values", "secrets"})
_WITHOUT_SPECS: Final = select(*(column for column in items.c if column.name not in _LARGE))
_RECORD: Final = select(*(column for column in items.c if column.name not in _LARGE - {"run_spec"}))
_IS_ITEM: Final = items.c.id == bindparam("item")
_WITHOUT_SPECS_BY_ID: Final = Prepared(_WITHOUT_SPECS.where(_IS_ITEM))
_WITHOUT_SPECS_LOCKED: Final = Prepared(_WITHOUT_SPECS.where(_IS_ITEM).with_for_update())
_FULL_BY_ID: Final = Prepared(
    select(items, attempts.c.id.label("attempt_id"), attempts.c.token_epoch)
    .join(attempts, and_(attempts.c.item_id == items.c.id, attempts.c.number == items.c.attempt))
    .where(_IS_ITEM)
)
_RECORD_BY_ID: Final = Prepared(_RECORD.where(_IS_ITEM))
#: What is given besides the guard names the columns to set.
_CHANGE: Final = Prepared(
    update(items).where(
        items.c.id == bindparam("seen_id"),
        items.c.attempt == bindparam("seen_attempt"),
        items.c.epoch == bindparam("seen_epoch"),
        items.c.phase == bindparam("seen_phase"),
    )
)
_EXTEND: Final = Prepared(update(items).where(_IS_ITEM))
#: So many are found and changed one by one; a list of variable length is compiled each time.
_FEW: Final = 4
_NEW: Final = Prepared(items.insert())
#: In which items of a queue are claimed.
QUEUE_ORDER: Final = (items.c.priority, items.c.enqueued_at, items.c.seq)
_CLAIMED: Final = Prepared(
    _WITHOUT_SPECS.where(
        text(HELD_ONLY),
        items.c.agent_id == bindparam("holder"),
        items.c.request_id == bindparam("request"),
    ).order_by(*QUEUE_ORDER)
)


_ABANDONED: Final = Prepared(
    select(items.c.id)
    .select_from(items.join(agents, items.c.agent_id == agents.c.id))
    .where(
        agents.c.backend_id == bindparam("backend"),
        agents.c.entity == bindparam("of_entity"),
        text(HELD_ONLY),
        or_(*(items.c.phase == each.value for each in sorted(MAY_RUN))),
        or_(
            and_(
                agents.c.id != bindparam("mine"),
                or_(agents.c.status == "KILLED", agents.c.heartbeat_at < bindparam("live_since")),
            ),
            and_(agents.c.id == bindparam("mine"), items.c.lease_expires_at < bindparam("now")),
        ),
    )
    .limit(1)
)
_TO_STOP: Final = Prepared(
    select(items.c.id, items.c.attempt)
    .where(
        text(HELD_ONLY),
        items.c.agent_id == bindparam("holder"),
        items.c.stop_requested.is_(True),
    )
    .order_by(items.c.id)
)


def insert(tx: Tx, values: dict[str, Any]) -> None:
    """A new item."""
    tx.changed(_NEW, **values)


def row(tx: Tx, item_id: str, *, lock: bool = False) -> AnyRow | None:
    """An item without its specs; locked, it stays as it is until the end of the transaction."""
    return tx.one(_WITHOUT_SPECS_LOCKED if lock else _WITHOUT_SPECS_BY_ID, item=item_id)


def require(tx: Tx, item_id: str) -> AnyRow:
    """As `row`, of an item that exists."""
    return tx.require(_WITHOUT_SPECS_BY_ID, item=item_id)


def with_specs(tx: Tx, item_id: str) -> AnyRow:
    """An item that exists, with its specs, and `attempt_id` and `token_epoch` of its attempt."""
    return tx.require(_FULL_BY_ID, item=item_id)


def rows(tx: Tx, item_ids: Collection[str], *, lock: bool = False) -> Sequence[AnyRow]:
    """Several, ordered by id, so that two transactions that lock them cannot deadlock."""
    if len(item_ids) <= _FEW:
        statement = _WITHOUT_SPECS_LOCKED if lock else _WITHOUT_SPECS_BY_ID
        found = (tx.one(statement, item=each) for each in sorted(item_ids))
        return [each for each in found if each is not None]
    query = _WITHOUT_SPECS.where(items.c.id.in_(item_ids)).order_by(items.c.id)
    return tx.all(query.with_for_update() if lock else query)


def queued_in(tx: Tx, entity: str, most: int) -> int:
    """How many items wait on all queues of an entity; counted up to `most`."""
    waiting = select(items.c.id).where(text(QUEUED_ONLY), items.c.entity == entity).limit(most)
    return int(tx.run(select(func.count()).select_from(waiting.subquery())).scalar_one())


def end_delays(tx: Tx) -> set[str]:
    """Make items claimable whose retry delay is over; the ids of their queues."""
    due = (text(DEFERRED_ONLY), items.c.not_before <= tx.now)
    statement = update(items).where(*due).values(not_before=None).returning(items.c.queue_id)
    return {row.queue_id for row in tx.run(statement) if row.queue_id is not None}


def change(tx: Tx, seen: AnyRow, values: dict[str, Any]) -> bool:
    """Change an item only if item, attempt, epoch and phase are still as seen."""
    guard = {
        "seen_id": seen.id,
        "seen_attempt": seen.attempt,
        "seen_epoch": seen.epoch,
        "seen_phase": seen.phase,
    }
    return tx.changed(_CHANGE, **guard, **values) == 1


def extend_leases(tx: Tx, item_ids: Collection[str], expires_at: float) -> None:
    """Renew; the caller has locked these rows and checked their epochs."""
    if len(item_ids) <= _FEW:
        for each in item_ids:
            tx.changed(_EXTEND, item=each, lease_expires_at=expires_at)
    else:
        where = items.c.id.in_(item_ids)
        tx.run(update(items).where(where).values(lease_expires_at=expires_at))


def regain_contact(tx: Tx, item_ids: Collection[str]) -> None:
    """Their holder sent a heartbeat again."""
    if item_ids:
        where = (items.c.id.in_(item_ids), items.c.lost_contact_at.is_not(None))
        tx.run(update(items).where(*where).values(lost_contact_at=None))


def extend_all_leases(tx: Tx, expires_at: float) -> None:
    """Renew every lease."""
    where = (text(HELD_ONLY), items.c.lease_expires_at.is_not(None))
    tx.run(update(items).where(*where).values(lease_expires_at=expires_at))


def held_by(tx: Tx, agent_id: str, *, lock: bool = False) -> Sequence[AnyRow]:
    """Items an agent holds, oldest first."""
    query = _WITHOUT_SPECS.where(text(HELD_ONLY), items.c.agent_id == agent_id).order_by(items.c.id)
    return tx.all(query.with_for_update() if lock else query)


def any_abandoned(tx: Tx, agent: AnyRow, live_since: float) -> bool:
    """Whether there is a started item whose agent, on this agent's backend, is gone.

    Or one of its own whose lease has expired although it sends heartbeats.
    """
    values = {"backend": agent.backend_id, "of_entity": agent.entity, "mine": agent.id}
    found = tx.one(_ABANDONED, **values, live_since=live_since, now=tx.now)
    return found is not None


def to_stop(tx: Tx, agent_id: str) -> Sequence[AnyRow]:
    """`id` and `attempt` of items an agent holds and is to stop, in the order of their ids."""
    return tx.all(_TO_STOP, holder=agent_id)


def claimed_by(tx: Tx, agent_id: str, request_id: str) -> Sequence[AnyRow]:
    """Items an agent holds from that claim."""
    return tx.all(_CLAIMED, holder=agent_id, request=request_id)


def permitted_to(tx: Tx, agent_id: str) -> list[str]:
    """Ids of items which one of W&B's agents may have running."""
    where = (text(HELD_ONLY), items.c.agent_id == agent_id, items.c.phase.in_(sorted(MAY_RUN)))
    query = select(items.c.id).where(*where, items.c.protocol == AgentProtocol.WANDB.value)
    return [found.id for found in tx.all(query)]


def expired(tx: Tx, limit: int) -> Sequence[AnyRow]:
    """Held items whose lease expired, locked; rows locked by others are skipped."""
    query = _WITHOUT_SPECS.where(text(HELD_ONLY), items.c.lease_expires_at < tx.now)
    ordered = query.order_by(items.c.lease_expires_at, items.c.id).limit(limit)
    return tx.all(ordered.with_for_update(skip_locked=True))


def live_in(tx: Tx, queue_id: str, not_stopped: int | None = None) -> Sequence[AnyRow]:
    """Queued and held items of a queue, locked; or so many of those not asked to stop."""
    alive = or_(text(QUEUED_ONLY), text(HELD_ONLY))
    query = _WITHOUT_SPECS.where(items.c.queue_id == queue_id, alive).order_by(items.c.id)
    if not_stopped is not None:
        query = query.where(items.c.stop_requested.is_(False)).limit(not_stopped)
    return tx.all(query.with_for_update())


def by_run(tx: Tx, entity: str, project: str, run_name: str) -> AnyRow | None:
    """The newest item that launched a run of that name."""
    where = (
        items.c.run_entity == entity,
        items.c.project == project,
        items.c.run_name == run_name,
    )
    return tx.one(_WITHOUT_SPECS.where(*where).order_by(items.c.seq.desc()).limit(1))


def reset_priorities(tx: Tx, queue_id: str, priority: int) -> None:
    """Give all queued items of a queue the same priority."""
    where = (text(QUEUED_ONLY), items.c.queue_id == queue_id)
    tx.run(update(items).where(*where).values(priority=priority))


def count_ahead(tx: Tx, item: ItemRecord) -> int:
    """How many queued items of the same queue come before a queued one."""
    query = select(func.count()).select_from(items)
    query = query.where(text(QUEUED_ONLY), items.c.not_before.is_(None))
    same = query.where(items.c.queue_id == item.queue_id, items.c.id != item.id)
    enqueued_at = item.enqueued_at.timestamp()
    earlier = (items.c.priority == item.priority) & (items.c.enqueued_at < enqueued_at)
    return int(tx.run(same.where(or_(items.c.priority < item.priority, earlier))).scalar_one())


def remove_finished(tx: Tx, before: float, limit: int) -> int:
    """Remove items that ended before then, with their attempts and events."""
    old_items = select(items.c.id).where(items.c.finished_at < before).limit(limit)
    old = [row.id for row in tx.all(old_items)]
    size = func.sum(attempts.c.setup_log_bytes + attempts.c.job_log_bytes).label("size")
    of_item = select(attempts.c.item_id, size).where(attempts.c.item_id.in_(old))
    logs = {row.item_id: int(row.size) for row in tx.all(of_item.group_by(attempts.c.item_id))}
    deleted = tx.all(delete(items).where(items.c.id.in_(old)).returning(items.c.id, items.c.entity))
    freed: Counter[str] = Counter()
    for row in deleted:
        freed[row.entity] -= logs.get(row.id, 0)
    stored_bytes.add(tx, "logs", freed)
    return len(deleted)


def count_unfinished(tx: Tx, entity: str) -> int:
    """Items of an entity that are not over."""
    query = select(func.count()).select_from(items)
    where = (items.c.entity == entity, items.c.finished_at.is_(None))
    return int(tx.run(query.where(*where)).scalar_one())


def record(tx: Tx, item_id: str) -> ItemRecord | None:
    """An item as a record."""
    found = tx.one(_RECORD_BY_ID, item=item_id)
    return _record(found) if found else None


def records(tx: Tx, query_rows: Iterable[AnyRow]) -> tuple[ItemRecord, ...]:
    """Records of the items of some rows, in the same order."""
    wanted = [one.id for one in query_rows]
    found = {one.id: _record(one) for one in tx.all(_RECORD.where(items.c.id.in_(wanted)))}
    return tuple(found[one] for one in wanted)


def numbered(tx: Tx, numbers: Sequence[int]) -> list[tuple[int, ItemRecord]]:
    """Records by number, in any order."""
    query = _RECORD.where(items.c.seq.in_(numbers))
    rows = tx.page(query, max(1, len(numbers)), (items.c.run_spec, items.c.facts))
    return [(found.seq, _record(found)) for found in rows]


#: Keys of a launch spec whose values are API keys; they are stored encrypted, see `secrets`.
SECRET_KEYS: Final = ("_wandb_api_key",)


def masked(run_spec: Json) -> Json:
    """A spec as it may be shown: API keys that submitters pass on are masked."""
    hidden = {key: MASK for key in SECRET_KEYS if run_spec.get(key)}
    return {**run_spec, **hidden}


def with_secrets(tx: Tx) -> Sequence[AnyRow]:
    """`id` and `secrets` of all items that have some."""
    return tx.all(select(items.c.id, items.c.secrets).where(items.c.secrets.is_not(None)))


def set_secrets(tx: Tx, item_id: str, secrets: bytes) -> None:
    """Replace the encrypted keys of an item."""
    tx.run(update(items).where(items.c.id == item_id).values(secrets=secrets))


def demand_of(one: AnyRow) -> Demand:
    """What an item needs; stored zeros mean that nothing is asked for."""
    return Demand(one.demand_cpus or None, one.demand_memory or None, one.demand_gpus)


def allocation_from(stored: dict[str, Any] | None) -> Allocation | None:
    """An allocation from its column, which has it `asdict`."""
    if stored is None:
        return None
    return Allocation(stored["cpus"], stored["memory"], tuple(stored["gpus"]))


def _cause(one: AnyRow) -> Cause | None:
    """Of the outcome, or why a permitted attempt is pending, which its agent reports as a fact."""
    if one.cause is not None:
        return Cause(one.cause)
    pending = one.phase == Phase.PERMITTED and str(one.activity).startswith("pending")
    return Cause.__members__.get(str(one.facts.get("pending_cause"))) if pending else None


def _record(one: AnyRow) -> ItemRecord:
    return record_of(
        ItemRecord,
        one,
        phase=Phase(one.phase),
        demand=demand_of(one),
        allocation=allocation_from(one.allocation),
        warnings=tuple(one.warnings),
        protocol=None if one.protocol is None else AgentProtocol(one.protocol),
        cause=_cause(one),
        lost_contact=one.lost_contact_at is not None,
        not_before=to_datetime(one.not_before),
    )
