"""Projects and resource configs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update

from agent.control.store.tables import projects, record_of, resource_configs
from agent.control.store.tx import Tx
from agent.model.spec import Json


@dataclass(frozen=True, slots=True)
class ProjectRecord:
    """A project; `number` is an integer because clients parse it as one."""

    number: int
    name: str
    entity: str
    created_at: datetime
    #: Whether runs in it become jobs.
    makes_jobs: bool


@dataclass(frozen=True, slots=True)
class ResourceConfigRecord:
    """W&B's default resource config: what a queue created with it takes as its template."""

    id: str
    entity: str
    resource: str
    config: Json
    template_variables: dict[str, Json]


def project(tx: Tx, entity: str, name: str) -> ProjectRecord | None:
    """A project by name."""
    row = tx.one(_named(entity, name))
    return record_of(ProjectRecord, row) if row else None


def ensure(tx: Tx, entity: str, name: str) -> tuple[ProjectRecord, bool]:
    """A project, inserted unless it exists; true when it was inserted."""
    found = project(tx, entity, name)
    if found is not None:
        return found, False
    fresh = {"created_at": tx.now, "makes_jobs": True}
    inserted = tx.insert_new(projects, {"entity": entity, "name": name, **fresh})
    return record_of(ProjectRecord, tx.require(_named(entity, name))), inserted


def set_makes_jobs(tx: Tx, number: int, value: bool) -> None:  # noqa: FBT001 -- the value set
    """Let runs of a project become jobs, or not."""
    tx.run(update(projects).where(projects.c.number == number).values(makes_jobs=value))


def page(tx: Tx, entity: str, after: str, limit: int) -> tuple[Sequence[ProjectRecord], int]:
    """Projects whose names come after that one, and how many there are in all."""
    where = projects.c.entity == entity
    total = tx.run(select(func.count()).select_from(projects).where(where)).scalar_one()
    query = select(projects).where(where, projects.c.name > after)
    rows = tx.all(query.order_by(projects.c.name).limit(limit))
    return [record_of(ProjectRecord, row) for row in rows], total


def insert_config(tx: Tx, values: dict[str, Any]) -> ResourceConfigRecord:
    """Store a resource config."""
    tx.run(resource_configs.insert().values(created_at=tx.now, **values))
    row = tx.require(select(resource_configs).where(resource_configs.c.id == values["id"]))
    return record_of(ResourceConfigRecord, row)


def config(tx: Tx, entity: str, config_id: str) -> ResourceConfigRecord | None:
    """A resource config of that entity."""
    table = resource_configs
    row = tx.one(select(table).where(table.c.entity == entity, table.c.id == config_id))
    return record_of(ResourceConfigRecord, row) if row else None


def _named(entity: str, name: str) -> Select[Any]:
    return select(projects).where(projects.c.entity == entity, projects.c.name == name)
