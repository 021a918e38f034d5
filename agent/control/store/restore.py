"""What the first start after a restore from a backup reads and changes."""

from collections.abc import Sequence

from sqlalchemy import func, select, text, update

from agent.control.store.tables import HELD_ONLY, QUEUED_ONLY, items, queues
from agent.control.store.tx import AnyRow, Tx


def pause_queues(tx: Tx) -> int:
    """Pause every queue; how many were not."""
    return tx.changed(update(queues).where(queues.c.paused.is_(False)).values(paused=True))


def add_to_epochs(tx: Tx, number: int) -> None:
    """Raise the epochs of all items: those that were over may have been retried since."""
    tx.run(update(items).values(epoch=items.c.epoch + number))


def held(tx: Tx) -> Sequence[AnyRow]:
    """All held items, locked."""
    return tx.all(select(items).where(text(HELD_ONLY)).order_by(items.c.id).with_for_update())


def count_queued(tx: Tx) -> int:
    """Items that wait on all queues."""
    query = select(func.count()).select_from(items).where(text(QUEUED_ONLY))
    return int(tx.run(query).scalar_one())
