"""Leases of what only one replica may do at a time: expiry, retention, the job of a run."""

from sqlalchemy import delete, or_, update

from agent.control.store.tables import work_leases
from agent.control.store.tx import Tx


def take(tx: Tx, work: str, holder: str, seconds: float) -> bool:
    """Take or renew a lease; false while another process holds it.

    One process owns an SQLite file: it need not write for this every second.
    """
    if tx.connection.dialect.name == "sqlite":
        return True
    values = {"holder": holder, "expires_at": tx.now + seconds}
    free = or_(work_leases.c.holder == holder, work_leases.c.expires_at <= tx.now)
    if tx.changed(update(work_leases).where(work_leases.c.work == work, free).values(values)):
        return True
    return tx.insert_new(work_leases, {"work": work, **values})


def release(tx: Tx, holder: str) -> None:
    """Let another process take what this one holds, without waiting for the expiry."""
    tx.run(delete(work_leases).where(work_leases.c.holder == holder))
