"""Collections and versions of artifacts: looking them up, making and changing them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Select, delete, func, select, update

from agent.control.store.artifact_records import ArtifactRecord, ArtifactState, CollectionRecord
from agent.control.store.artifact_tables import (
    artifact_aliases,
    artifact_clients,
    artifact_collections,
    artifacts,
)
from agent.control.store.moments import moment
from agent.control.store.tables import projects
from agent.control.store.tx import AnyRow, Tx

_COLLECTIONS: Final = select(artifact_collections, projects.c.number).join(
    projects,
    (projects.c.entity == artifact_collections.c.entity)
    & (projects.c.name == artifact_collections.c.project),
)
#: Its id is a column of the artifact's already.
_PLACE: Final = [
    column.label(f"collection_{column.name}")
    for column in artifact_collections.c
    if column.name != "id"
]
_ARTIFACTS: Final = (
    select(artifacts, *_PLACE, projects.c.number)
    .join(artifact_collections, artifact_collections.c.id == artifacts.c.collection_id)
    .join(
        projects,
        (projects.c.entity == artifact_collections.c.entity)
        & (projects.c.name == artifact_collections.c.project),
    )
)
_COMMITTED: Final = artifacts.c.state == ArtifactState.COMMITTED.value


def collection(tx: Tx, entity: str, project: str, name: str) -> CollectionRecord | None:
    """A collection by its place."""
    table = artifact_collections.c
    where = (table.entity == entity, table.project == project, table.name == name)
    row = tx.one(_COLLECTIONS.where(*where))
    return _collection(row) if row else None


def sure_collection(tx: Tx, entity: str, project: str, name: str) -> CollectionRecord:
    """As `collection`, of one that exists."""
    table = artifact_collections.c
    where = (table.entity == entity, table.project == project, table.name == name)
    return _collection(tx.sure(_COLLECTIONS.where(*where)))


def collection_by_id(tx: Tx, collection_id: str) -> CollectionRecord | None:
    """A collection by id."""
    row = tx.one(_COLLECTIONS.where(artifact_collections.c.id == collection_id))
    return _collection(row) if row else None


def insert_collection(tx: Tx, values: dict[str, Any]) -> bool:
    """False when the project has an artifact of that name."""
    times = {"created_at": tx.now, "updated_at": tx.now}
    return tx.insert_new(artifact_collections, {"next_version": 0, **times, **values})


def lock_collection(tx: Tx, collection_id: str) -> None:
    """Make others wait who create, commit or move aliases in it, until the end."""
    query = select(artifact_collections.c.seq).where(artifact_collections.c.id == collection_id)
    tx.run(query.with_for_update()).all()


def take_version(tx: Tx, collection_id: str) -> int:
    """The next number of a locked collection; each is given once."""
    where = artifact_collections.c.id == collection_id
    number = tx.sure(select(artifact_collections.c.next_version).where(where)).next_version
    tx.run(update(artifact_collections).where(where).values(next_version=number + 1))
    return int(number)


def touch_collection(tx: Tx, collection_id: str) -> None:
    """Something of it changed."""
    where = artifact_collections.c.id == collection_id
    tx.run(update(artifact_collections).where(where).values(updated_at=tx.now))


def collections(
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
    return [(row.seq, _collection(row)) for row in tx.all(query)], total


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


def insert(tx: Tx, values: dict[str, Any]) -> None:
    """A new artifact."""
    times = {"created_at": tx.now, "updated_at": tx.now}
    tx.run(artifacts.insert().values({**times, **values}))


def change(tx: Tx, artifact_id: str, values: Mapping[str, Any]) -> None:
    """Change columns."""
    where = artifacts.c.id == artifact_id
    tx.run(update(artifacts).where(where).values(updated_at=tx.now, **values))


def by_id(tx: Tx, artifact_id: str) -> ArtifactRecord | None:
    """An artifact by id, in any state."""
    return _first(tx, _ARTIFACTS.where(artifacts.c.id == artifact_id))


def sure(tx: Tx, artifact_id: str) -> ArtifactRecord:
    """As `by_id`, of one that exists."""
    return _records(tx, [tx.sure(_ARTIFACTS.where(artifacts.c.id == artifact_id))])[0]


def wanted_aliases(tx: Tx, artifact_id: str) -> list[str]:
    """Aliases that an artifact takes when it is committed."""
    query = select(artifacts.c.wanted_aliases).where(artifacts.c.id == artifact_id)
    return list(tx.sure(query).wanted_aliases)


def by_client(tx: Tx, collection_id: str, client_id: str) -> ArtifactRecord | None:
    """What a client made before under this id of its own."""
    query = _ARTIFACTS.join(artifact_clients, artifact_clients.c.artifact_id == artifacts.c.id)
    table = artifact_clients.c
    return _first(
        tx, query.where(table.collection_id == collection_id, table.client_id == client_id)
    )


def of_client(tx: Tx, client_id: str) -> list[ArtifactRecord]:
    """Artifacts of any collection that clients made under this id."""
    query = _ARTIFACTS.join(artifact_clients, artifact_clients.c.artifact_id == artifacts.c.id)
    return _records(tx, tx.all(query.where(artifact_clients.c.client_id == client_id)))


def insert_client(tx: Tx, collection_id: str, client_id: str, artifact_id: str) -> None:
    """Remember a client's id of an artifact."""
    values = {"collection_id": collection_id, "client_id": client_id, "artifact_id": artifact_id}
    tx.insert_new(artifact_clients, values)


def by_digest(tx: Tx, collection_id: str, digest: str) -> ArtifactRecord | None:
    """The newest committed version with that digest."""
    table = artifacts.c
    query = _ARTIFACTS.where(
        table.collection_id == collection_id, table.digest == digest, _COMMITTED
    )
    return _first(tx, query.order_by(table.version.desc()).limit(1))


def by_version(tx: Tx, collection_id: str, version: int) -> ArtifactRecord | None:
    """A committed version by number."""
    table = artifacts.c
    where = (table.collection_id == collection_id, table.version == version, _COMMITTED)
    return _first(tx, _ARTIFACTS.where(*where))


def by_alias(tx: Tx, collection_id: str, alias: str) -> ArtifactRecord | None:
    """The version that a free alias stands for."""
    query = _ARTIFACTS.join(artifact_aliases, artifact_aliases.c.artifact_id == artifacts.c.id)
    table = artifact_aliases.c
    return _first(tx, query.where(table.collection_id == collection_id, table.alias == alias))


def newest(tx: Tx, collection_id: str) -> ArtifactRecord | None:
    """The committed version with the highest number."""
    query = _ARTIFACTS.where(artifacts.c.collection_id == collection_id, _COMMITTED)
    return _first(tx, query.order_by(artifacts.c.version.desc()).limit(1))


def newest_of(tx: Tx, collection_ids: Collection[str]) -> dict[str, ArtifactRecord]:
    """As `newest`, for several collections."""
    highest = (
        select(artifacts.c.collection_id, func.max(artifacts.c.version).label("version"))
        .where(artifacts.c.collection_id.in_(collection_ids), _COMMITTED)
        .group_by(artifacts.c.collection_id)
        .subquery()
    )
    query = _ARTIFACTS.join(
        highest,
        (highest.c.collection_id == artifacts.c.collection_id)
        & (highest.c.version == artifacts.c.version),
    )
    return {record.collection.id: record for record in _records(tx, tx.all(query))}


def version_counts(tx: Tx, collection_ids: Collection[str]) -> dict[str, int]:
    """How many committed versions each collection has."""
    query = (
        select(artifacts.c.collection_id, func.count().label("many"))
        .where(artifacts.c.collection_id.in_(collection_ids), _COMMITTED)
        .group_by(artifacts.c.collection_id)
    )
    return {row.collection_id: row.many for row in tx.all(query)}


def versions(
    tx: Tx, collection_id: str, *, before: int | None, limit: int
) -> tuple[list[ArtifactRecord], int]:
    """Committed versions, newest first, below that number; and how many there are in all."""
    where = (artifacts.c.collection_id == collection_id, _COMMITTED)
    total = tx.run(select(func.count()).select_from(artifacts).where(*where)).scalar_one()
    query = _ARTIFACTS.where(*where).order_by(artifacts.c.version.desc()).limit(limit)
    if before is not None:
        query = query.where(artifacts.c.version < before)
    return _records(tx, tx.all(query)), total


def written_by(tx: Tx, entity: str, project: str, run_name: str) -> list[ArtifactRecord]:
    """Versions that a run made, oldest first."""
    table = artifact_collections.c
    query = _ARTIFACTS.where(
        table.entity == entity,
        table.project == project,
        artifacts.c.run_name == run_name,
        _COMMITTED,
    )
    return _records(tx, tx.all(query.order_by(artifacts.c.seq)))


def by_ids(tx: Tx, ids: Collection[str]) -> list[ArtifactRecord]:
    """Several by id, oldest first."""
    return _records(tx, tx.all(_ARTIFACTS.where(artifacts.c.id.in_(ids)).order_by(artifacts.c.seq)))


def forget_abandoned(tx: Tx, before: float) -> int:
    """Remove what was never committed and has not changed since."""
    where = (artifacts.c.state == ArtifactState.PENDING.value, artifacts.c.updated_at < before)
    return tx.changed(delete(artifacts).where(*where))


def _first(tx: Tx, query: Select[Any]) -> ArtifactRecord | None:
    row = tx.one(query)
    return _records(tx, [row])[0] if row else None


def _records(tx: Tx, rows: Sequence[AnyRow]) -> list[ArtifactRecord]:
    table = artifact_aliases.c
    query = select(table.artifact_id, table.alias).where(
        table.artifact_id.in_([row.id for row in rows])
    )
    found: dict[str, list[str]] = {}
    for alias in tx.all(query.order_by(table.created_at, table.alias)) if rows else ():
        found.setdefault(alias.artifact_id, []).append(alias.alias)
    return [_artifact(row, tuple(found.get(row.id, ()))) for row in rows]


def _collection(row: AnyRow) -> CollectionRecord:
    return CollectionRecord(
        id=row.id,
        entity=row.entity,
        project=row.project,
        project_number=row.number,
        name=row.name,
        type=row.type,
        description=row.description,
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
    )


def _artifact(row: AnyRow, aliases: tuple[str, ...]) -> ArtifactRecord:
    return ArtifactRecord(
        id=row.id,
        collection=CollectionRecord(
            id=row.collection_id,
            entity=row.collection_entity,
            project=row.collection_project,
            project_number=row.number,
            name=row.collection_name,
            type=row.collection_type,
            description=row.collection_description,
            created_at=moment(row.collection_created_at),
            updated_at=moment(row.collection_updated_at),
        ),
        state=ArtifactState(row.state),
        version=row.version,
        digest=row.digest,
        digest_algorithm=row.digest_algorithm,
        description=row.description,
        metadata=row.metadata,
        tags=tuple(row.tags),
        aliases=aliases,
        size=row.size,
        file_count=row.file_count,
        ttl_seconds=row.ttl_seconds,
        history_step=row.history_step,
        user=row.user_name,
        run_name=row.run_name,
        job_file=row.job_file,
        job_problem=row.job_problem,
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
    )
