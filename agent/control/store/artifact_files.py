"""What artifacts hold: manifests, entries, the contents behind them, and who uses them."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, select, tuple_, update

from agent.control.store.artifact_records import ContentRecord, EntryRecord, ManifestRecord
from agent.control.store.artifact_tables import (
    artifact_collections,
    artifact_entries,
    artifact_manifests,
    artifact_uses,
    artifacts,
    contents,
)
from agent.control.store.tx import AnyRow, Tx

#: Values of one `IN (…)`: below what SQLite takes in a statement.
_MANY: Final = 10_000
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
    """The manifest of an artifact: the one that was written last and has a digest, else the last.

    Clients name an empty one first and fill it in later.
    """
    table = artifact_manifests.c
    query = _MANIFESTS.where(table.artifact_id == artifact_id)
    row = tx.one(query.order_by(table.digest == "", table.created_at.desc(), table.id))
    return _manifest(row) if row else None


def save_manifest(tx: Tx, values: dict[str, Any]) -> str:
    """Insert, or give a manifest of that name its digest; returns its id."""
    if tx.insert_new(artifact_manifests, {"created_at": tx.now, **values}):
        return str(values["id"])
    table = artifact_manifests.c
    where = (table.artifact_id == values["artifact_id"], table.name == values["name"])
    if values["digest"]:
        fresh = {"digest": values["digest"], "type": values["type"]}
        tx.run(update(artifact_manifests).where(*where).values(fresh))
    return str(tx.require(select(table.id).where(*where)).id)


def set_manifest_digest(tx: Tx, manifest_id: str, digest: str) -> None:
    """Give a manifest the digest of its file."""
    where = artifact_manifests.c.id == manifest_id
    tx.run(update(artifact_manifests).where(where).values(digest=digest))


def insert_entries(tx: Tx, artifact_id: str, entries: Iterable[EntryRecord]) -> None:
    """Add files; those that are there stay."""
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
    """Files by path, behind that path, and how many match in all."""
    table = artifact_entries.c
    where = [table.artifact_id == artifact_id]
    if names is not None:
        where.append(table.path.in_(names))
    total = tx.run(select(func.count()).select_from(artifact_entries).where(*where)).scalar_one()
    query = select(artifact_entries).where(*where, table.path > after)
    rows = tx.all(query.order_by(table.path).limit(limit))
    return [EntryRecord(row.path, row.digest, row.md5, row.size, row.ref) for row in rows], total


def first_without_content(tx: Tx, entity: str, artifact_id: str) -> str | None:
    """Path of a file whose bytes are not stored in the entity."""
    table = artifact_entries.c
    # One look for each file: an entity may have a million contents.
    stored = select(contents.c.md5).where(contents.c.entity == entity, contents.c.md5 == table.md5)
    query = select(table.path).where(
        table.artifact_id == artifact_id, table.md5.is_not(None), ~stored.exists()
    )
    row = tx.one(query.order_by(table.path).limit(1))
    return None if row is None else str(row.path)


def drop_files(tx: Tx, artifact_id: str) -> None:
    """Forget what an artifact holds."""
    tx.run(delete(artifact_entries).where(artifact_entries.c.artifact_id == artifact_id))
    tx.run(delete(artifact_manifests).where(artifact_manifests.c.artifact_id == artifact_id))


def holds(tx: Tx, collection_id: str, md5: str) -> bool:
    """Whether a version of the collection has a file with that content."""
    query = (
        select(artifact_entries.c.path)
        .join(artifacts, artifacts.c.id == artifact_entries.c.artifact_id)
        .where(artifacts.c.collection_id == collection_id, artifact_entries.c.md5 == md5)
    )
    return tx.one(query.limit(1)) is not None


def content(tx: Tx, entity: str, md5: str) -> ContentRecord | None:
    """Stored bytes."""
    row = tx.one(select(contents).where(contents.c.entity == entity, contents.c.md5 == md5))
    return _content(row) if row else None


def save_contents(tx: Tx, stored: Sequence[ContentRecord]) -> None:
    """Record bytes that were stored; those recorded before keep their name, and are touched.

    In one order everywhere: two uploads of the same contents wait for each other's rows.
    """
    rows = [
        {
            "entity": one.entity,
            "md5": one.md5,
            "key": one.key,
            "size": one.size,
            "touched_at": tx.now,
        }
        for one in sorted(stored, key=lambda one: (one.entity, one.md5))
    ]
    tx.insert_or_update(contents, rows, "touched_at")


def contents_of(tx: Tx, entity: str, md5s: Collection[str]) -> dict[str, ContentRecord]:
    """Those of the contents that are stored, by MD5."""
    wanted = sorted(set(md5s))
    found: dict[str, ContentRecord] = {}
    for start in range(0, len(wanted), _MANY):
        where = (contents.c.entity == entity, contents.c.md5.in_(wanted[start : start + _MANY]))
        found.update((row.md5, _content(row)) for row in tx.all(select(contents).where(*where)))
    return found


def touch_contents(tx: Tx, entity: str, md5s: Collection[str]) -> None:
    """Keep contents from being collected: an upload counts on them."""
    wanted = sorted(set(md5s))
    for start in range(0, len(wanted), _MANY):
        where = (contents.c.entity == entity, contents.c.md5.in_(wanted[start : start + _MANY]))
        tx.run(update(contents).where(*where).values(touched_at=tx.now))


def unused_contents(
    tx: Tx, before: float, after: tuple[str, str], limit: int
) -> list[ContentRecord]:
    """Contents that no entry refers to and nobody asked for since; manifests may be among them.

    In the order of entity and MD5, behind that pair.
    """
    place = tuple_(contents.c.entity, contents.c.md5)
    query = select(contents).where(place > tuple_(*after), *_unused(before))
    rows = tx.all(query.order_by(contents.c.entity, contents.c.md5).limit(limit))
    return [_content(row) for row in rows]


def delete_unused(tx: Tx, keys: Collection[str], before: float) -> list[ContentRecord]:
    """Forget those of the stored bytes that are unused still; gives them.

    Who comes to count on a content touches its row. On PostgreSQL that may happen while this
    waits for it, and only what is asked of the row itself is asked again then.
    """
    query = delete(contents).where(contents.c.key.in_(sorted(keys)), *_unused(before))
    return [_content(row) for row in tx.all(query.returning(contents))]


def _unused(before: float) -> tuple[ColumnElement[bool], ...]:
    used = select(artifact_entries.c.md5).where(artifact_entries.c.md5 == contents.c.md5)
    return contents.c.touched_at < before, ~used.exists()


def manifest_digests(tx: Tx, digests: Collection[str]) -> set[str]:
    """Those of the digests that belong to manifests."""
    table = artifact_manifests.c
    wanted = sorted(digests)
    return {row.digest for row in tx.all(select(table.digest).where(table.digest.in_(wanted)))}


def content_keys(tx: Tx, keys: Collection[str]) -> set[str]:
    """Those of the names in the object store that contents have."""
    wanted = sorted(keys)
    found: set[str] = set()
    for start in range(0, len(wanted), _MANY):
        where = contents.c.key.in_(wanted[start : start + _MANY])
        found.update(row.key for row in tx.all(select(contents.c.key).where(where)))
    return found


def insert_use(tx: Tx, values: dict[str, Any]) -> None:
    """A run takes an artifact as input; once is enough."""
    tx.insert_new(artifact_uses, {"created_at": tx.now, **values})


def used_ids(tx: Tx, entity: str, project: str, run_name: str) -> list[str]:
    """Ids of the artifacts that a run takes as input."""
    table = artifact_uses.c
    where = (table.entity == entity, table.project == project, table.run_name == run_name)
    return [row.artifact_id for row in tx.all(select(table.artifact_id).where(*where))]


def users_of(tx: Tx, artifact_id: str) -> list[tuple[str, str, str]]:
    """Entity, project and name of the runs that take an artifact as input."""
    table = artifact_uses.c
    query = select(table.entity, table.project, table.run_name)
    rows = tx.all(query.where(table.artifact_id == artifact_id).order_by(table.created_at))
    return [(row.entity, row.project, row.run_name) for row in rows]


def _manifest(row: AnyRow) -> ManifestRecord:
    return ManifestRecord(row.id, row.artifact_id, row.entity, row.name, row.digest)


def _content(row: AnyRow) -> ContentRecord:
    return ContentRecord(row.entity, row.md5, row.key, row.size)
