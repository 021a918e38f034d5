"""Manifests and entries of artifacts, and the runs that take artifacts as input."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, func, select, update

from agent.control.store.artifact_tables import (
    artifact_collections,
    artifact_entries,
    artifact_manifests,
    artifact_uses,
    artifacts,
    contents,
)
from agent.control.store.tx import AnyRow, Tx


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """The list of an artifact's files, itself a file; `digest` is empty before it is known."""

    id: str
    artifact_id: str
    entity: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """One file of an artifact."""

    path: str
    #: As the manifest writes it: base64 of the MD5; of references whatever the client wrote.
    digest: str
    #: Hexadecimal; `None` for references.
    md5: str | None
    size: int
    ref: str | None = None


_MANIFESTS: Final = (
    select(artifact_manifests, artifact_collections.c.entity)
    .join(artifacts, artifacts.c.id == artifact_manifests.c.artifact_id)
    .join(artifact_collections, artifact_collections.c.id == artifacts.c.collection_id)
)


def manifest(tx: Tx, manifest_id: str) -> ManifestRecord | None:
    """A manifest by id."""
    row = tx.one(_MANIFESTS.where(artifact_manifests.c.id == manifest_id))
    return _manifest(row) if row else None


def require_manifest(tx: Tx, manifest_id: str) -> ManifestRecord:
    """As `manifest`, of one that exists."""
    return _manifest(tx.require(_MANIFESTS.where(artifact_manifests.c.id == manifest_id)))


def manifest_of(tx: Tx, artifact_id: str) -> ManifestRecord | None:
    """The newest manifest of an artifact that has a digest, else the newest.

    Clients announce a manifest without a digest first, and set it later.
    """
    table = artifact_manifests.c
    query = _MANIFESTS.where(table.artifact_id == artifact_id)
    row = tx.one(query.order_by(table.digest == "", table.created_at.desc(), table.id))
    return _manifest(row) if row else None


def save_manifest(tx: Tx, values: dict[str, Any]) -> str:
    """Insert a manifest, or set the digest of the one of that name; returns its id."""
    if tx.insert_new(artifact_manifests, {"created_at": tx.now, **values}):
        return str(values["id"])
    table = artifact_manifests.c
    where = (table.artifact_id == values["artifact_id"], table.name == values["name"])
    if values["digest"]:
        fresh = {"digest": values["digest"], "type": values["type"]}
        tx.run(update(artifact_manifests).where(*where).values(fresh))
    return str(tx.require(select(table.id).where(*where)).id)


def set_manifest_digest(tx: Tx, manifest_id: str, digest: str) -> None:
    """Set the digest of a manifest's file."""
    where = artifact_manifests.c.id == manifest_id
    tx.run(update(artifact_manifests).where(where).values(digest=digest))


def insert_entries(tx: Tx, artifact_id: str, entries: Iterable[EntryRecord]) -> None:
    """Add entries; those whose path exists stay."""
    rows = [
        {
            "artifact_id": artifact_id,
            "path": entry.path,
            "digest": entry.digest,
            "md5": entry.md5,
            "size": entry.size,
            "ref": entry.ref,
        }
        for entry in entries
    ]
    tx.insert_all_new(artifact_entries, rows)


def entries(
    tx: Tx, artifact_id: str, *, names: Collection[str] | None, after: str, limit: int
) -> tuple[list[EntryRecord], int]:
    """Entries behind a path, by path, and the number of all that match."""
    table = artifact_entries.c
    where = [table.artifact_id == artifact_id]
    if names is not None:
        where.append(table.path.in_(names))
    total = tx.run(select(func.count()).select_from(artifact_entries).where(*where)).scalar_one()
    query = select(artifact_entries).where(*where, table.path > after)
    rows = tx.all(query.order_by(table.path).limit(limit))
    return [EntryRecord(row.path, row.digest, row.md5, row.size, row.ref) for row in rows], total


def first_without_content(tx: Tx, entity: str, artifact_id: str) -> str | None:
    """Path of an entry whose bytes are not stored in the entity."""
    table = artifact_entries.c
    # One indexed look-up per entry: an entity may have a million contents.
    stored = select(contents.c.md5).where(contents.c.entity == entity, contents.c.md5 == table.md5)
    query = select(table.path).where(
        table.artifact_id == artifact_id, table.md5.is_not(None), ~stored.exists()
    )
    row = tx.one(query.order_by(table.path).limit(1))
    return None if row is None else str(row.path)


def delete_files(tx: Tx, artifact_id: str) -> None:
    """Delete entries and manifests of an artifact."""
    tx.run(delete(artifact_entries).where(artifact_entries.c.artifact_id == artifact_id))
    tx.run(delete(artifact_manifests).where(artifact_manifests.c.artifact_id == artifact_id))


def has_content(tx: Tx, collection_id: str, md5: str) -> bool:
    """Whether a version of the collection has a file with that content."""
    query = (
        select(artifact_entries.c.path)
        .join(artifacts, artifacts.c.id == artifact_entries.c.artifact_id)
        .where(artifacts.c.collection_id == collection_id, artifact_entries.c.md5 == md5)
    )
    return tx.one(query.limit(1)) is not None


def insert_input(tx: Tx, values: dict[str, Any]) -> None:
    """Record that a run takes an artifact as input, once."""
    tx.insert_new(artifact_uses, {"created_at": tx.now, **values})


def input_ids(tx: Tx, entity: str, project: str, run_name: str) -> list[str]:
    """Ids of the artifacts that a run takes as input."""
    table = artifact_uses.c
    where = (table.entity == entity, table.project == project, table.run_name == run_name)
    return [row.artifact_id for row in tx.all(select(table.artifact_id).where(*where))]


def used_otherwise(tx: Tx, entity: str, project: str, run_name: str, used_as: str) -> list[str]:
    """As `input_ids`, without those that are used as this."""
    table = artifact_uses.c
    where = (table.entity == entity, table.project == project, table.run_name == run_name)
    query = select(table.artifact_id).where(*where, func.coalesce(table.used_as, "") != used_as)
    return [row.artifact_id for row in tx.all(query)]


def runs_using(tx: Tx, artifact_id: str) -> list[tuple[str, str, str]]:
    """Entity, project and name of the runs that take an artifact as input."""
    table = artifact_uses.c
    query = select(table.entity, table.project, table.run_name)
    rows = tx.all(query.where(table.artifact_id == artifact_id).order_by(table.created_at))
    return [(row.entity, row.project, row.run_name) for row in rows]


def _manifest(row: AnyRow) -> ManifestRecord:
    return ManifestRecord(row.id, row.artifact_id, row.entity, row.name, row.digest)
