"""Browser sessions and sign-in links: rows by the hash of a random token."""

from typing import Final, Literal

from sqlalchemy import bindparam, delete, select

from agent.control.store.tables import sign_ins
from agent.control.store.tx import AnyRow, Tx

Purpose = Literal["session", "link"]

_VALID: Final = select(sign_ins.c.key_id, sign_ins.c.created_at).where(
    sign_ins.c.hash == bindparam("token_hash"),
    sign_ins.c.purpose == bindparam("for_purpose"),
    sign_ins.c.expires_at > bindparam("now"),
)


def insert(tx: Tx, digest: bytes, purpose: Purpose, key_id: str, lifetime: float) -> None:
    """A new browser session or link of the owner of a key."""
    values = {"hash": digest, "purpose": purpose, "key_id": key_id}
    times = {"created_at": tx.now, "expires_at": tx.now + lifetime}
    tx.run(sign_ins.insert().values({**values, **times}))


def session(tx: Tx, digest: bytes) -> AnyRow | None:
    """`key_id` and `created_at` of a browser session that is not over."""
    return tx.one(_VALID, token_hash=digest, for_purpose="session", now=tx.now)


def take_link(tx: Tx, digest: bytes) -> str | None:
    """The key of a link, which is used up by this; of two that follow one, one gets it."""
    where = (sign_ins.c.hash == digest, sign_ins.c.purpose == "link")
    statement = delete(sign_ins).where(*where, sign_ins.c.expires_at > tx.now)
    row = tx.one(statement.returning(sign_ins.c.key_id))
    return None if row is None else str(row.key_id)


def end_session(tx: Tx, digest: bytes) -> None:
    """End a browser session for good."""
    tx.run(delete(sign_ins).where(sign_ins.c.hash == digest))


def remove_expired(tx: Tx) -> int:
    """Remove what is over; returns how many."""
    return tx.changed(delete(sign_ins).where(sign_ins.c.expires_at < tx.now))
