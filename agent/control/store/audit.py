"""The audit log: rows are only ever added, each with a digest over itself and the one before."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select

from agent.control.store.tables import audit_log, installation, record_of, to_datetime
from agent.control.store.tx import AnyRow, Tx
from agent.model.spec import Json


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Who did what, with which key, from where, and with what result."""

    seq: int
    at: datetime
    actor: str
    key_id: str | None
    action: str
    entity: str | None
    details: Json
    address: str
    #: `done`, or the code of the refusal.
    result: str


#: Columns under the digest.
_SIGNED: Final = ("at", "actor", "key_id", "action", "entity", "details", "address", "result")


def append(tx: Tx, values: dict[str, Any]) -> None:
    """Add a row; the installation's row is locked, so that two writers do not fork the chain."""
    tx.one(select(installation.c.id).with_for_update())
    last = tx.one(select(audit_log.c.digest).order_by(audit_log.c.seq.desc()).limit(1))
    row = {"at": tx.now, **values}
    row["digest"] = _digest("" if last is None else last.digest, row)
    tx.run(audit_log.insert().values(row))


def page(
    tx: Tx, entity: str | None, before: int | None, limit: int
) -> tuple[tuple[AuditRecord, ...], int]:
    """Rows of an entity (`None`: all) below a number, newest first, and how many there are."""
    where = [] if entity is None else [audit_log.c.entity == entity]
    total = tx.run(select(func.count()).select_from(audit_log).where(*where)).scalar_one()
    query = select(audit_log).where(*where).order_by(audit_log.c.seq.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_log.c.seq < before)
    rows = tx.all(query)
    return tuple(record_of(AuditRecord, row, at=to_datetime(row.at)) for row in rows), total


def first_changed(tx: Tx) -> int | None:
    """The number of the first row that was changed, or that follows a removed one."""
    digest = ""
    for row in tx.run(select(audit_log).order_by(audit_log.c.seq)):
        if row.digest != _digest(digest, _values(row)):
            return int(row.seq)
        digest = row.digest
    return None


def _values(row: AnyRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _SIGNED}


def _digest(before: str, row: dict[str, Any]) -> str:
    signed: Sequence[Any] = [before, *(row[name] for name in _SIGNED)]
    return hashlib.sha256(json.dumps(signed).encode()).hexdigest()
