"""Collections of artifacts, which are named series of versions, and their free aliases."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, delete, func, select, update

from agent.control.store.artifact_tables import artifact_aliases, artifact_collections
from agent.control.store.ids import new_id
from agent.control.store.tables import projects, record_of
from agent.control.store.tx import AnyRow, Tx


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """A named series of versions of one type: W&B's artifact sequence."""

    id: str
    entity: str
    project: str
    #: Number of the project, which clients show as its id.
    project_number: int
    name: str
    type: str
    description: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def path(self) -> str:
        """`entity/project/name`."""
        return f"{self.entity}/{self.project}/{self.name}"


#: Joins a collection with its project.
IN_PROJECT: Final = (projects.c.entity == artifact_collections.c.entity) & (
    projects.c.name == artifact_collections.c.project
)
_COLLECTIONS: Final = select(artifact_collections, projects.c.number.label("project_number")).join(
    projects, IN_PROJECT
)


def by_name(tx: Tx, entity: str, project: str, name: str) -> CollectionRecord | None:
    """A collection by entity, project and name."""
    row = tx.one(_named(entity, project, name))
    return record(row) if row else None


def by_id(tx: Tx, collection_id: str) -> CollectionRecord | None:
    """A collection by id."""
    row = tx.one(_COLLECTIONS.where(artifact_collections.c.id == collection_id))
    return record(row) if row else None


def ensure(tx: Tx, entity: str, project: str, name: str, kind: str) -> CollectionRecord:
    """A collection, inserted with this type unless the project has one of that name."""
    found = by_name(tx, entity, project, name)
    if found is not None:
        return found
    names = {"entity": entity, "project": project, "name": name}
    times = {"created_at": tx.now, "updated_at": tx.now}
    values = {"id": new_id(), "type": kind, "next_version": 0, **names, **times}
    tx.insert_new(artifact_collections, values)
    return record(tx.require(_named(entity, project, name)))


def lock(tx: Tx, collection_id: str) -> None:
    """Serialise creation, commits and moves of aliases, until the transaction ends."""
    query = select(artifact_collections.c.seq).where(artifact_collections.c.id == collection_id)
    tx.run(query.with_for_update()).all()


def next_version(tx: Tx, collection_id: str) -> int:
    """A new version number of a locked collection; no number is used twice."""
    where = artifact_collections.c.id == collection_id
    number = tx.require(select(artifact_collections.c.next_version).where(where)).next_version
    tx.run(update(artifact_collections).where(where).values(next_version=number + 1))
    return int(number)


def touch(tx: Tx, collection_id: str) -> None:
    """Set the time of the last change."""
    where = artifact_collections.c.id == collection_id
    tx.run(update(artifact_collections).where(where).values(updated_at=tx.now))


def page(
    tx: Tx, entity: str, project: str, *, kind: str | None, after: int | None, limit: int
) -> tuple[list[tuple[int, CollectionRecord]], int]:
    """Collections in order of creation, with their sequence numbers, and the total."""
    table = artifact_collections.c

    def narrowed(query: Select[Any]) -> Select[Any]:
        query = query.where(table.entity == entity, table.project == project)
        return query if kind is None else query.where(table.type == kind)

    total = tx.run(narrowed(select(func.count()).select_from(artifact_collections))).scalar_one()
    query = narrowed(_COLLECTIONS).order_by(table.seq).limit(limit)
    if after is not None:
        query = query.where(table.seq > after)
    return [(row.seq, record(row)) for row in tx.all(query)], total


def types(tx: Tx, entity: str, project: str) -> Sequence[tuple[str, float]]:
    """Types in use in a project, and when each was first used."""
    table = artifact_collections.c
    query = select(table.type, func.min(table.created_at).label("first"))
    query = query.where(table.entity == entity, table.project == project)
    rows = tx.all(query.group_by(table.type).order_by(table.type))
    return [(row.type, row.first) for row in rows]


def names(tx: Tx, entity: str, project: str, kind: str) -> Sequence[str]:
    """Names of the collections of a type."""
    table = artifact_collections.c
    where = (table.entity == entity, table.project == project, table.type == kind)
    return [row.name for row in tx.all(select(table.name).where(*where).order_by(table.name))]


def record(row: AnyRow, prefix: str = "") -> CollectionRecord:
    """A collection from a row; `prefix` where its columns stand beside those of another table."""
    return record_of(CollectionRecord, row, prefix=prefix, project_number=row.project_number)


def put_aliases(tx: Tx, collection_id: str, artifact_id: str, aliases: Iterable[str]) -> None:
    """Let aliases refer to a version, whatever they referred to before."""
    table = artifact_aliases.c
    for alias in aliases:
        values = {"artifact_id": artifact_id, "created_at": tx.now}
        key = {"collection_id": collection_id, "alias": alias}
        if not tx.insert_new(artifact_aliases, {**key, **values}):
            where = (table.collection_id == collection_id, table.alias == alias)
            moved = update(artifact_aliases).where(*where, table.artifact_id != artifact_id)
            tx.run(moved.values(values))


def delete_aliases(tx: Tx, artifact_id: str, aliases: Collection[str] | None = None) -> None:
    """Remove aliases of a version; all for `None`."""
    table = artifact_aliases.c
    where = [table.artifact_id == artifact_id]
    if aliases is not None:
        where.append(table.alias.in_(aliases))
    tx.run(delete(artifact_aliases).where(*where))


def alias_names(tx: Tx, collection_id: str) -> Sequence[str]:
    """All free aliases of a collection, by name."""
    table = artifact_aliases.c
    query = select(table.alias).where(table.collection_id == collection_id).order_by(table.alias)
    return [row.alias for row in tx.all(query)]


def _named(entity: str, project: str, name: str) -> Select[Any]:
    table = artifact_collections.c
    return _COLLECTIONS.where(table.entity == entity, table.project == project, table.name == name)
