"""Collections of artifacts: the names that versions are of, each in a project."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Select, func, select, update

from agent.control.store.artifact_records import CollectionRecord
from agent.control.store.artifact_tables import artifact_collections
from agent.control.store.tables import projects, to_datetime
from agent.control.store.tx import AnyRow, Tx

#: Joins a collection with its project.
IN_PROJECT: Final = (projects.c.entity == artifact_collections.c.entity) & (
    projects.c.name == artifact_collections.c.project
)
_COLLECTIONS: Final = select(artifact_collections, projects.c.number).join(projects, IN_PROJECT)


def by_name(tx: Tx, entity: str, project: str, name: str) -> CollectionRecord | None:
    """A collection by its place."""
    row = tx.one(_named(entity, project, name))
    return record(row) if row else None


def require(tx: Tx, entity: str, project: str, name: str) -> CollectionRecord:
    """As `by_name`, of one that exists."""
    return record(tx.require(_named(entity, project, name)))


def by_id(tx: Tx, collection_id: str) -> CollectionRecord | None:
    """A collection by id."""
    row = tx.one(_COLLECTIONS.where(artifact_collections.c.id == collection_id))
    return record(row) if row else None


def insert(tx: Tx, values: dict[str, Any]) -> bool:
    """False when the project has an artifact of that name."""
    times = {"created_at": tx.now, "updated_at": tx.now}
    return tx.insert_new(artifact_collections, {"next_version": 0, **times, **values})


def lock(tx: Tx, collection_id: str) -> None:
    """Make others wait who create, commit or move aliases in it, until the end."""
    query = select(artifact_collections.c.seq).where(artifact_collections.c.id == collection_id)
    tx.run(query.with_for_update()).all()


def take_version(tx: Tx, collection_id: str) -> int:
    """The next number of a locked collection; each is given once."""
    where = artifact_collections.c.id == collection_id
    number = tx.require(select(artifact_collections.c.next_version).where(where)).next_version
    tx.run(update(artifact_collections).where(where).values(next_version=number + 1))
    return int(number)


def touch(tx: Tx, collection_id: str) -> None:
    """Something of it changed."""
    where = artifact_collections.c.id == collection_id
    tx.run(update(artifact_collections).where(where).values(updated_at=tx.now))


def page(
    tx: Tx, entity: str, project: str, *, kind: str | None, after: int | None, limit: int
) -> tuple[list[tuple[int, CollectionRecord]], int]:
    """Collections of a project in the order of their making, with their numbers and the total."""
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
    """A collection of a row, which may have its columns beside others, with a prefix."""

    def column(name: str) -> Any:
        return getattr(row, prefix + name)

    return CollectionRecord(
        id=column("id"),
        entity=column("entity"),
        project=column("project"),
        project_number=row.number,
        name=column("name"),
        type=column("type"),
        description=column("description"),
        created_at=to_datetime(column("created_at")),
        updated_at=to_datetime(column("updated_at")),
    )


def _named(entity: str, project: str, name: str) -> Select[Any]:
    table = artifact_collections.c
    return _COLLECTIONS.where(table.entity == entity, table.project == project, table.name == name)
