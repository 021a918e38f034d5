"""Queues."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Select, bindparam, delete, func, select, update

from agent.control.store.prepared import Prepared
from agent.control.store.tables import agent_queues, items, queues, record_of
from agent.control.store.tx import AnyRow, Tx
from agent.model.phase import Phase
from agent.model.spec import Json

Prioritization = Literal["DISABLED", "V0"]
Access = Literal["PROJECT", "USER"]


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """A queue; `resource` is `None` until an agent or an administrator has chosen one."""

    id: str
    entity: str
    name: str
    access: Access
    created_by: str
    resource: str | None
    #: `{"resource_args": {"<resource>": {…}}}` and other keys of a launch spec.
    config: Json
    #: `{"<variable>": {"schema": {…}, "description": "…"}}`.
    template_variables: dict[str, Json]
    prioritization: Prioritization
    external_links: Json | None
    resource_config_id: str | None
    paused: bool
    created_at: datetime


_OF_AGENT: Final = Prepared(
    select(queues.c.id, queues.c.name, queues.c.paused)
    .join(agent_queues, agent_queues.c.queue_id == queues.c.id)
    .where(agent_queues.c.agent_id == bindparam("agent"))
    .order_by(queues.c.name)
)
_BY_NAME: Final = Prepared(
    select(queues).where(
        queues.c.entity == bindparam("in_entity"), queues.c.name == bindparam("named")
    )
)


def by_name(tx: Tx, entity: str, name: str) -> QueueRecord | None:
    """A queue by name."""
    row = tx.one(_BY_NAME, in_entity=entity, named=name)
    return record_of(QueueRecord, row) if row else None


def by_id(tx: Tx, queue_id: str) -> QueueRecord | None:
    """A queue by id."""
    row = tx.one(select(queues).where(queues.c.id == queue_id))
    return record_of(QueueRecord, row) if row else None


def of_entity(tx: Tx, entity: str) -> tuple[QueueRecord, ...]:
    """All queues of an entity, by name."""
    query = select(queues).where(queues.c.entity == entity).order_by(queues.c.name)
    return tuple(record_of(QueueRecord, row) for row in tx.all(query))


def names(tx: Tx, entity: str) -> list[str]:
    """Names of an entity's queues."""
    return [row.name for row in tx.all(select(queues.c.name).where(queues.c.entity == entity))]


def of_agent(tx: Tx, agent_id: str) -> list[AnyRow]:
    """`id`, `name`, `paused` of the queues an agent serves, by name."""
    return list(tx.all(_OF_AGENT, agent=agent_id))


def insert(tx: Tx, values: dict[str, Any]) -> bool:
    """False when the entity has a queue of that name."""
    return tx.insert_new(queues, {"created_at": tx.now, **values})


def change(tx: Tx, queue_id: str, values: dict[str, Any]) -> None:
    """Change columns."""
    if values:
        tx.run(update(queues).where(queues.c.id == queue_id).values(values))


def fill_resource(tx: Tx, queue_id: str, resource: str) -> None:
    """Give a queue that has no resource yet this one."""
    where = (queues.c.id == queue_id, queues.c.resource.is_(None))
    tx.run(update(queues).where(*where).values(resource=resource))


def remove(tx: Tx, queue_id: str) -> None:
    """Remove a queue; its items keep its name."""
    tx.run(delete(queues).where(queues.c.id == queue_id))


def counts_query(queue_ids: Iterable[str]) -> Select[tuple[str | None, str, int]]:
    """The numbers of items by queue and phase."""
    return (
        select(items.c.queue_id, items.c.phase, func.count().label("number"))
        .where(items.c.queue_id.in_(list(queue_ids)))
        .group_by(items.c.queue_id, items.c.phase)
    )


def counts(tx: Tx, queue_ids: Iterable[str]) -> dict[str, dict[Phase, int]]:
    """Items by queue and phase."""
    found: dict[str, dict[Phase, int]] = {}
    for row in tx.all(counts_query(queue_ids)):
        found.setdefault(row.queue_id, {})[Phase(row.phase)] = row.number
    return found
