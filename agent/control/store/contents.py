"""Contents: the stored bytes of artifacts' files, one row per entity and MD5."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import ColumnElement, delete, select, tuple_, update

from agent.control.store.artifact_tables import artifact_entries, artifact_manifests, contents
from agent.control.store.tx import AnyRow, Tx


@dataclass(frozen=True, slots=True)
class ContentRecord:
    """Stored bytes."""

    entity: str
    md5: str
    #: Key in the object store.
    key: str
    size: int


#: Values of one `IN (…)`, below SQLite's limit of a statement.
_BATCH: Final = 10_000


def by_md5(tx: Tx, entity: str, md5: str) -> ContentRecord | None:
    """A content of an entity."""
    row = tx.one(select(contents).where(contents.c.entity == entity, contents.c.md5 == md5))
    return _record(row) if row else None


def save(tx: Tx, stored: Sequence[ContentRecord]) -> None:
    """Insert contents; those that exist keep their key and are touched.

    Sorted, so that two uploads of the same contents lock rows in the same order.
    """
    ordered = sorted(stored, key=lambda one: (one.entity, one.md5))
    rows = [{**asdict(one), "touched_at": tx.now} for one in ordered]
    tx.insert_or_update(contents, rows, "touched_at")


def stored_contents(tx: Tx, entity: str, md5s: Collection[str]) -> dict[str, ContentRecord]:
    """Those of the contents that are stored, by MD5."""
    found: dict[str, ContentRecord] = {}
    for batch in _batches(md5s):
        where = (contents.c.entity == entity, contents.c.md5.in_(batch))
        found.update((row.md5, _record(row)) for row in tx.all(select(contents).where(*where)))
    return found


def touch(tx: Tx, entity: str, md5s: Collection[str]) -> None:
    """Protect contents from removal for a while: an upload relies on them."""
    for batch in _batches(md5s):
        where = (contents.c.entity == entity, contents.c.md5.in_(batch))
        tx.run(update(contents).where(*where).values(touched_at=tx.now))


def unused(tx: Tx, before: float, after: tuple[str, str], limit: int) -> list[ContentRecord]:
    """Contents that no entry refers to, not touched since `before`; may include manifests.

    Ordered by entity and MD5, behind the pair `after`.
    """
    key = tuple_(contents.c.entity, contents.c.md5)
    query = select(contents).where(key > tuple_(*after), *_unused(before))
    rows = tx.all(query.order_by(contents.c.entity, contents.c.md5).limit(limit))
    return [_record(row) for row in rows]


def delete_unused(tx: Tx, keys: Collection[str], before: float) -> list[ContentRecord]:
    """Delete those of the contents that are still unused, and return them.

    An upload that relies on a content touches its row. On PostgreSQL that may happen while
    this waits for the row lock; then only conditions on the row itself are evaluated again.
    """
    query = delete(contents).where(contents.c.key.in_(sorted(keys)), *_unused(before))
    return [_record(row) for row in tx.all(query.returning(contents))]


def _unused(before: float) -> tuple[ColumnElement[bool], ...]:
    used = select(artifact_entries.c.md5).where(artifact_entries.c.md5 == contents.c.md5)
    return contents.c.touched_at < before, ~used.exists()


def manifest_digests(tx: Tx, digests: Collection[str]) -> set[str]:
    """Those of the digests that belong to manifests."""
    table = artifact_manifests.c
    wanted = sorted(digests)
    return {row.digest for row in tx.all(select(table.digest).where(table.digest.in_(wanted)))}


def known_keys(tx: Tx, keys: Collection[str]) -> set[str]:
    """Those of the keys of the object store that belong to contents."""
    found: set[str] = set()
    for batch in _batches(keys):
        where = contents.c.key.in_(batch)
        found.update(row.key for row in tx.all(select(contents.c.key).where(where)))
    return found


def _batches(values: Collection[str]) -> Iterator[list[str]]:
    wanted = sorted(set(values))
    return (wanted[start : start + _BATCH] for start in range(0, len(wanted), _BATCH))


def _record(row: AnyRow) -> ContentRecord:
    return ContentRecord(row.entity, row.md5, row.key, row.size)
