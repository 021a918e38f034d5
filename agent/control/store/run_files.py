"""Files of runs: names, sizes and times; `files/run_files.py` has the bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select

from agent.control.store import stored_bytes
from agent.control.store.run_tables import run_files
from agent.control.store.tables import record_of
from agent.control.store.tx import Tx


@dataclass(frozen=True, slots=True)
class RunFileRecord:
    """A file of a run; `updated_at` is `None` for one that has not arrived."""

    name: str
    size: int
    updated_at: datetime | None


def page(
    tx: Tx, run_id: str, pattern: str | None, after: str, limit: int
) -> Sequence[RunFileRecord]:
    """Files behind a name, by name; `pattern` is one of LIKE."""
    query = select(run_files).where(run_files.c.run_id == run_id, run_files.c.name > after)
    if pattern:
        query = query.where(run_files.c.name.like(pattern, escape="\\"))
    rows = tx.all(query.order_by(run_files.c.name).limit(limit))
    return [record_of(RunFileRecord, row) for row in rows]


def named(tx: Tx, run_id: str, names: Sequence[str]) -> Sequence[RunFileRecord]:
    """The files of these names that have arrived."""
    where = (run_files.c.run_id == run_id, run_files.c.name.in_(names))
    return [record_of(RunFileRecord, row) for row in tx.all(select(run_files).where(*where))]


def count(tx: Tx, run_id: str) -> int:
    """How many files a run has."""
    query = select(func.count()).where(run_files.c.run_id == run_id)
    return int(tx.run(query).scalar_one())


def remove(tx: Tx, entity: str, run_id: str, name: str) -> bool:
    """Forget a file; false if there was none."""
    where = delete(run_files).where(run_files.c.run_id == run_id, run_files.c.name == name)
    row = tx.one(where.returning(run_files.c.size))
    if row is not None:
        stored_bytes.add(tx, "run_files", {entity: -row.size})
    return row is not None
