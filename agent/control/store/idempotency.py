"""Idempotency keys with the reply to the first request."""

from typing import Any, Final

from sqlalchemy import bindparam, delete, select, update

from agent.control.store.prepared import Prepared
from agent.control.store.tables import idempotency_keys
from agent.control.store.tx import AnyRow, Tx

_FIND: Final = Prepared(
    select(idempotency_keys).where(
        idempotency_keys.c.entity == bindparam("of_entity"),
        idempotency_keys.c.key == bindparam("of_key"),
    )
)


def find(tx: Tx, entity: str, key: str) -> AnyRow | None:
    """What is stored of a key: `fingerprint`, `reply`."""
    return tx.one(_FIND, of_entity=entity, of_key=key)


def reserve(tx: Tx, entity: str, key: str, fingerprint: bytes) -> AnyRow | None:
    """Reserve a key; `None` when it is new, else as `find`."""
    values = {"entity": entity, "key": key, "fingerprint": fingerprint, "created_at": tx.now}
    if tx.insert_new(idempotency_keys, values):
        return None
    return find(tx, entity, key)


def keep_reply(tx: Tx, entity: str, key: str, reply: Any) -> None:
    """Store the reply with its key, in the transaction that made it true."""
    where = (idempotency_keys.c.entity == entity, idempotency_keys.c.key == key)
    tx.run(update(idempotency_keys).where(*where).values(reply=reply))


def remove_old(tx: Tx, before: float) -> int:
    """Remove keys older than that."""
    return tx.changed(delete(idempotency_keys).where(idempotency_keys.c.created_at < before))
