"""Idempotency keys with the reply to the first request."""

from typing import Any

from sqlalchemy import delete, select, update

from agent.control.store.tables import idempotency_keys
from agent.control.store.tx import AnyRow, Tx


def reserve(tx: Tx, entity: str, key: str, fingerprint: bytes) -> AnyRow | None:
    """Reserve a key; `None` when it is new, else what is stored: `fingerprint`, `reply`."""
    values = {"entity": entity, "key": key, "fingerprint": fingerprint, "created_at": tx.now}
    if tx.insert_new(idempotency_keys, values):
        return None
    table = idempotency_keys
    return tx.one(select(table).where(table.c.entity == entity, table.c.key == key))


def keep_reply(tx: Tx, entity: str, key: str, reply: Any) -> None:
    """Store the reply with its key, in the transaction that made it true."""
    where = (idempotency_keys.c.entity == entity, idempotency_keys.c.key == key)
    tx.run(update(idempotency_keys).where(*where).values(reply=reply))


def remove_old(tx: Tx, before: float) -> int:
    """Remove keys older than that."""
    return tx.changed(delete(idempotency_keys).where(idempotency_keys.c.created_at < before))
