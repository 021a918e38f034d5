"""Artifacts: versions of collections, pending, committed or deleted."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, delete, func, select, update

from agent.control.store import collections
from agent.control.store.artifact_tables import (
    artifact_aliases,
    artifact_clients,
    artifact_collections,
    artifacts,
)
from agent.control.store.collections import CollectionRecord
from agent.control.store.tables import projects, record_of
from agent.control.store.tx import AnyRow, Tx
from agent.model.spec import Json


class ArtifactState(StrEnum):
    """PENDING: being uploaded, without a number. COMMITTED: complete. DELETED: only a row."""

    PENDING = "PENDING"
    COMMITTED = "COMMITTED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class ArtifactRecord:
    """A version of a collection, or one that is being uploaded."""

    id: str
    collection: CollectionRecord
    state: ArtifactState
    #: `None` until it is committed.
    version: int | None
    digest: str
    digest_algorithm: str
    description: str | None
    metadata: Json
    tags: tuple[str, ...]
    #: Free aliases, oldest first; `v<N>` is not among them.
    aliases: tuple[str, ...]
    size: int
    file_count: int
    ttl_seconds: int
    history_step: int | None
    user: str | None
    run_name: str | None
    job_file: Json | None
    job_problem: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def reference(self) -> str:
        """`entity/project/name:v<N>`; for committed ones."""
        return f"{self.collection.path}:v{self.version}"


#: The collection's columns but its id, which is a column of the artifact.
_COLLECTION: Final = [
    column.label(f"collection_{column.name}")
    for column in artifact_collections.c
    if column.name != "id"
]
_ARTIFACTS: Final = (
    select(artifacts, *_COLLECTION, projects.c.number.label("project_number"))
    .join(artifact_collections, artifact_collections.c.id == artifacts.c.collection_id)
    .join(projects, collections.IN_PROJECT)
)
_BY_CLIENT: Final = _ARTIFACTS.join(
    artifact_clients, artifact_clients.c.artifact_id == artifacts.c.id
)
_COMMITTED: Final = artifacts.c.state == ArtifactState.COMMITTED.value


def insert(tx: Tx, values: dict[str, Any]) -> None:
    """A new artifact."""
    tx.run(artifacts.insert().values(created_at=tx.now, updated_at=tx.now, **values))


def change(tx: Tx, artifact_id: str, values: Mapping[str, Any]) -> None:
    """Change columns."""
    where = artifacts.c.id == artifact_id
    tx.run(update(artifacts).where(where).values(updated_at=tx.now, **values))


def by_id(tx: Tx, artifact_id: str) -> ArtifactRecord | None:
    """An artifact by id, in any state."""
    return _first(tx, _ARTIFACTS.where(artifacts.c.id == artifact_id))


def require(tx: Tx, artifact_id: str) -> ArtifactRecord:
    """As `by_id`, of one that exists."""
    return _records(tx, [tx.require(_ARTIFACTS.where(artifacts.c.id == artifact_id))])[0]


def wanted_aliases(tx: Tx, artifact_id: str) -> list[str]:
    """Aliases that an artifact gets when it is committed."""
    query = select(artifacts.c.wanted_aliases).where(artifacts.c.id == artifact_id)
    return list(tx.require(query).wanted_aliases)


def by_client(tx: Tx, collection_id: str, client_id: str) -> ArtifactRecord | None:
    """The artifact of a collection that a client made under an id of its own."""
    table = artifact_clients.c
    where = (table.collection_id == collection_id, table.client_id == client_id)
    return _first(tx, _BY_CLIENT.where(*where))


def by_client_id(tx: Tx, client_id: str) -> list[ArtifactRecord]:
    """Artifacts of any collection that clients made under an id of their own."""
    return _records(tx, tx.all(_BY_CLIENT.where(artifact_clients.c.client_id == client_id)))


def insert_client(tx: Tx, collection_id: str, client_id: str, artifact_id: str) -> None:
    """Record a client's own id of an artifact."""
    values = {"collection_id": collection_id, "client_id": client_id, "artifact_id": artifact_id}
    tx.insert_new(artifact_clients, values)


def by_digest(tx: Tx, collection_id: str, digest: str) -> ArtifactRecord | None:
    """The newest committed version with that digest."""
    return _newest(tx, artifacts.c.collection_id == collection_id, artifacts.c.digest == digest)


def by_version(tx: Tx, collection_id: str, version: int) -> ArtifactRecord | None:
    """A committed version by number."""
    table = artifacts.c
    where = (table.collection_id == collection_id, table.version == version, _COMMITTED)
    return _first(tx, _ARTIFACTS.where(*where))


def by_alias(tx: Tx, collection_id: str, alias: str) -> ArtifactRecord | None:
    """The version that a free alias refers to."""
    query = _ARTIFACTS.join(artifact_aliases, artifact_aliases.c.artifact_id == artifacts.c.id)
    table = artifact_aliases.c
    return _first(tx, query.where(table.collection_id == collection_id, table.alias == alias))


def holders_of_aliases(tx: Tx, collection_id: str) -> dict[str, str]:
    """The id of the version that each free alias of a collection refers to."""
    query = select(artifact_aliases.c.alias, artifact_aliases.c.artifact_id).where(
        artifact_aliases.c.collection_id == collection_id
    )
    return {row.alias: row.artifact_id for row in tx.all(query)}


def newest(tx: Tx, collection_id: str) -> ArtifactRecord | None:
    """The committed version with the highest number."""
    return _newest(tx, artifacts.c.collection_id == collection_id)


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
    """Committed versions below a number, newest first, and the number of all."""
    where = (artifacts.c.collection_id == collection_id, _COMMITTED)
    total = tx.run(select(func.count()).select_from(artifacts).where(*where)).scalar_one()
    query = _ARTIFACTS.where(*where).order_by(artifacts.c.version.desc())
    if before is not None:
        query = query.where(artifacts.c.version < before)
    documents = (artifacts.c.metadata, artifacts.c.job_file)
    return _records(tx, tx.page(query, limit, documents)), total


def outputs_of(tx: Tx, entity: str, project: str, run_name: str) -> list[ArtifactRecord]:
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
    """Artifacts by id, oldest first."""
    return _records(tx, tx.all(_ARTIFACTS.where(artifacts.c.id.in_(ids)).order_by(artifacts.c.seq)))


def delete_abandoned(tx: Tx, before: float) -> int:
    """Delete artifacts that were never committed and not changed since `before`."""
    where = (artifacts.c.state == ArtifactState.PENDING.value, artifacts.c.updated_at < before)
    return tx.changed(delete(artifacts).where(*where))


def _newest(tx: Tx, *where: ColumnElement[bool]) -> ArtifactRecord | None:
    query = _ARTIFACTS.where(*where, _COMMITTED).order_by(artifacts.c.version.desc())
    return _first(tx, query.limit(1))


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
    return [
        record_of(
            ArtifactRecord,
            row,
            collection=collections.record(row, "collection_"),
            state=ArtifactState(row.state),
            tags=tuple(row.tags),
            aliases=tuple(found.get(row.id, ())),
            user=row.user_name,
        )
        for row in rows
    ]
