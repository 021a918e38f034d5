"""Agents and the queues they serve."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from sqlalchemy import bindparam, delete, func, select, update

from agent.control.store.prepared import Prepared
from agent.control.store.tables import agent_queues, agents, items, queues, record_of
from agent.control.store.tx import AnyRow, Tx
from agent.model.capacity import Capacity
from agent.model.phase import HELD
from agent.model.protocol import Condition, ConditionKind
from agent.model.spec import Json

StopMode = Literal["DRAIN", "STOP"]


class AgentProtocol(StrEnum):
    """What an agent talks to the control plane in: leases (ours), or pop and ack (W&B's)."""

    LAUNCH = "launch"
    WANDB = "wandb"


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent, alive or not."""

    id: str
    entity: str
    name: str
    hostname: str
    version: str | None
    protocol: AgentProtocol
    #: POLLING, RUNNING, DRAINING or KILLED, as last reported.
    status: str
    #: No heartbeat for `agent_timeout`, and it did not shut down.
    lost: bool
    #: An operator asked it to shut down.
    stop: StopMode | None
    backend_id: str | None
    resources: tuple[str, ...]
    capacity: Capacity | None
    config: Json
    #: What keeps it from claiming, as last reported.
    conditions: tuple[Condition, ...]
    queue_ids: tuple[str, ...]
    queue_names: tuple[str, ...]
    heartbeat_at: datetime
    created_at: datetime

    @property
    def live(self) -> bool:
        """Whether it can be expected to claim or to report."""
        return not self.lost and self.status != "KILLED"


_AGENT: Final = select(agents).where(agents.c.id == bindparam("agent"))
_BY_ID: Final = Prepared(_AGENT)
_LOCKED: Final = Prepared(_AGENT.with_for_update())
_OWNER: Final = Prepared(
    select(agents.c.id, agents.c.entity, agents.c.name, agents.c.key_id).where(
        agents.c.id == bindparam("agent")
    )
)
_HEARTBEAT: Final = Prepared(update(agents).where(agents.c.id == bindparam("agent")))


def row(tx: Tx, agent_id: str, *, lock: bool = False) -> AnyRow | None:
    """The bare row of an agent."""
    return tx.one(_LOCKED if lock else _BY_ID, agent=agent_id)


def owner(tx: Tx, agent_id: str) -> AnyRow | None:
    """`id`, `entity`, `name`, `key_id`: what every call checks who may act for it by."""
    return tx.one(_OWNER, agent=agent_id)


def require(tx: Tx, agent_id: str) -> AnyRow:
    """As `row`, of an agent that exists."""
    return tx.require(_BY_ID, agent=agent_id)


def records(tx: Tx, rows: Sequence[AnyRow], agent_timeout: float) -> tuple[AgentRecord, ...]:
    """Records of rows; an agent without a heartbeat for `agent_timeout` seconds is lost."""
    query = (
        select(agent_queues.c.agent_id, queues.c.id, queues.c.name)
        .join(queues, queues.c.id == agent_queues.c.queue_id)
        .where(agent_queues.c.agent_id.in_([one.id for one in rows]))
        .order_by(queues.c.name)
    )
    served: dict[str, list[tuple[str, str]]] = {}
    for found in tx.all(query):
        served.setdefault(found.agent_id, []).append((found.id, found.name))
    return tuple(_record(one, served.get(one.id, []), tx.now - agent_timeout) for one in rows)


def of_entity(tx: Tx, entity: str, queue_id: str | None = None) -> Sequence[AnyRow]:
    """Rows of an entity's agents, newest heartbeat first."""
    query = select(agents).where(agents.c.entity == entity)
    if queue_id is not None:
        serving = select(agent_queues.c.agent_id).where(agent_queues.c.queue_id == queue_id)
        query = query.where(agents.c.id.in_(serving))
    return tx.all(query.order_by(agents.c.heartbeat_at.desc(), agents.c.id))


def same_name(tx: Tx, entity: str, name: str, identity: str) -> Sequence[AnyRow]:
    """Agents with that name that belong to other installations."""
    other = agents.c.identity.is_distinct_from(identity)
    where = (agents.c.entity == entity, agents.c.name == name, other)
    return tx.all(select(agents).where(*where))


def by_identity(tx: Tx, entity: str, identity: str) -> AnyRow | None:
    """The agent of an installation."""
    where = (agents.c.entity == entity, agents.c.identity == identity)
    return tx.one(select(agents).where(*where))


def on_backend(tx: Tx, entity: str, backend_id: str, besides: str) -> Sequence[AnyRow]:
    """Other agents that have used the same engine."""
    where = (agents.c.entity == entity, agents.c.backend_id == backend_id, agents.c.id != besides)
    return tx.all(select(agents).where(*where))


def insert(tx: Tx, values: dict[str, Any]) -> None:
    """A new agent."""
    tx.run(agents.insert().values(created_at=tx.now, heartbeat_at=tx.now, **values))


def change(tx: Tx, agent_id: str, values: dict[str, Any]) -> None:
    """Change columns."""
    tx.run(update(agents).where(agents.c.id == agent_id).values(values))


def heartbeat(
    tx: Tx, agent_id: str, status: str, conditions: list[dict[str, Any]] | None = None
) -> None:
    """Store a heartbeat; `conditions` as `stored_conditions` makes them."""
    seen = {"heartbeat_at": tx.now, "status": status, "conditions": conditions}
    tx.changed(_HEARTBEAT, agent=agent_id, **seen)


def stored_conditions(conditions: Iterable[Condition]) -> list[dict[str, Any]] | None:
    """As the column has them; `None` for none."""
    return [asdict(one) for one in conditions] or None


def serve(tx: Tx, agent_id: str, queue_ids: Iterable[str]) -> None:
    """Set the queues an agent serves."""
    tx.run(delete(agent_queues).where(agent_queues.c.agent_id == agent_id))
    rows = [{"agent_id": agent_id, "queue_id": one} for one in dict.fromkeys(queue_ids)]
    tx.run(agent_queues.insert(), rows)


def serve_also(tx: Tx, agent_id: str, queue_id: str) -> None:
    """Add a queue to those that an agent serves."""
    tx.insert_new(agent_queues, {"agent_id": agent_id, "queue_id": queue_id})


def reset_heartbeats(tx: Tx, timeout: float) -> None:
    """Set the heartbeat to now of all agents that were live when the last one came."""
    newest = tx.run(select(func.max(agents.c.heartbeat_at))).scalar_one()
    if newest is not None:
        where = (agents.c.heartbeat_at >= newest - timeout, agents.c.status != "KILLED")
        tx.run(update(agents).where(*where).values(heartbeat_at=tx.now))


def remove_inactive(tx: Tx, before: float) -> int:
    """Remove agents without a heartbeat since `before` that hold nothing."""
    holders = select(items.c.agent_id).where(
        items.c.agent_id.is_not(None), items.c.phase.in_(sorted(HELD))
    )
    where = (agents.c.heartbeat_at < before, agents.c.id.not_in(holders))
    return tx.changed(delete(agents).where(*where))


def _record(one: AnyRow, served: list[tuple[str, str]], live_since: float) -> AgentRecord:
    return record_of(
        AgentRecord,
        one,
        protocol=AgentProtocol(one.protocol),
        lost=is_lost(one, live_since),
        resources=tuple(one.resources),
        capacity=_capacity(one.capacity),
        conditions=tuple(map(_condition, one.conditions or ())),
        queue_ids=tuple(queue_id for queue_id, _ in served),
        queue_names=tuple(name for _, name in served),
    )


def is_lost(one: AnyRow, live_since: float) -> bool:
    """No heartbeat since then, and it did not shut down."""
    return bool(one.heartbeat_at < live_since and one.status != "KILLED")


def _condition(stored: dict[str, Any]) -> Condition:
    return Condition(ConditionKind(stored["kind"]), stored["message"], stored["resource"])


def _capacity(stored: dict[str, Any] | None) -> Capacity | None:
    if stored is None:
        return None
    return Capacity(stored["slots"], stored["cpus"], stored["memory"], tuple(stored["gpus"]))
