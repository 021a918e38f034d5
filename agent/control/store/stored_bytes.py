"""How many bytes each entity has in the object store, by kind.

The sums are changed in the transaction that changes the rows of the bytes, so that they agree.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from sqlalchemy import bindparam, delete, func, insert, select, update

from agent.control.store.run_tables import run_files
from agent.control.store.tables import stored_bytes
from agent.control.store.tx import AnyRow, Tx

Kind = Literal["contents", "logs", "run_files", "run_streams"]

_ADD: Final = (
    update(stored_bytes)
    .where(stored_bytes.c.entity == bindparam("of"), stored_bytes.c.kind == bindparam("what"))
    .values(bytes=stored_bytes.c.bytes + bindparam("size"))
)
_TOTAL: Final = select(func.coalesce(func.sum(stored_bytes.c.bytes), 0).label("bytes")).where(
    stored_bytes.c.entity == bindparam("of")
)
_FILE: Final = (run_files.c.run_id == bindparam("of"), run_files.c.name == bindparam("called"))


def add(tx: Tx, kind: Kind, sizes: Mapping[str, int]) -> None:
    """Add bytes (or remove them, below zero) to the sums of entities.

    Sorted, so that two transactions lock rows in the same order.
    """
    for entity, size in sorted(sizes.items()):
        if size and not tx.changed(_ADD, of=entity, what=kind, size=size):
            tx.insert_new(stored_bytes, {"entity": entity, "kind": kind, "bytes": 0})
            tx.changed(_ADD, of=entity, what=kind, size=size)


def total(tx: Tx, entity: str) -> int:
    """All bytes of an entity."""
    return int(tx.require(_TOTAL, of=entity).bytes)


def every(tx: Tx) -> Sequence[AnyRow]:
    """Rows of entity, kind and bytes."""
    return tx.all(select(stored_bytes))


def save_run_file(tx: Tx, entity: str, run_id: str, name: str, size: int) -> None:
    """Record a file of a run, in place of the earlier one of that name."""
    known = tx.one(select(run_files.c.size).where(*_FILE), of=run_id, called=name)
    if known is None:
        row = {"run_id": run_id, "name": name, "size": size, "updated_at": tx.now}
        tx.run(insert(run_files), row)
    else:
        changed = update(run_files).where(*_FILE).values(size=size, updated_at=tx.now)
        tx.changed(changed, of=run_id, called=name)
    add(tx, "run_files", {entity: size - (known.size if known else 0)})


def delete_run_files(tx: Tx, entity: str, run_id: str) -> None:
    """Forget the files of a run."""
    where = delete(run_files).where(run_files.c.run_id == run_id)
    sizes = [row.size for row in tx.all(where.returning(run_files.c.size))]
    add(tx, "run_files", {entity: -sum(sizes)})
