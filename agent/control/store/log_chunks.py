"""Chunks of attempts' logs: bytes by position, in their row or in an object."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select

from agent.control.store.history import Channel
from agent.control.store.tables import attempts, log_chunks
from agent.control.store.tx import Tx


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Bytes `first` (inclusive) to `stop` (exclusive) of a log; see the table."""

    first: int
    stop: int
    data: bytes | None = None
    object: str | None = None
    position: int = 0


_COLUMNS: Final = [log_chunks.c[name] for name in LogChunk.__slots__]
_OF_LOG: Final = (
    log_chunks.c.attempt_id == bindparam("attempt"),
    log_chunks.c.channel == bindparam("log"),
)
_PAGE: Final = (
    select(*_COLUMNS)
    .where(*_OF_LOG, log_chunks.c.stop > bindparam("start"))
    .order_by(log_chunks.c.first)
    .limit(bindparam("most"))
)
_SMALL: Final = (
    select(*_COLUMNS).where(*_OF_LOG, log_chunks.c.data.is_not(None)).order_by(log_chunks.c.first)
)
_COUNT_SMALL: Final = select(
    func.count().label("number"),
    func.coalesce(func.sum(log_chunks.c.stop - log_chunks.c.first), 0).label("size"),
).where(*_OF_LOG, log_chunks.c.data.is_not(None))
_REMOVE: Final = delete(log_chunks).where(*_OF_LOG, log_chunks.c.first == bindparam("start"))
_LOCK: Final = (
    select(attempts.c.id)
    .where(attempts.c.item_id == bindparam("item"), attempts.c.number == bindparam("nth"))
    .with_for_update()
)


def lock(tx: Tx, item_id: str, number: int) -> int | None:
    """The id of an attempt, whose logs no other transaction changes until this one ends."""
    row = tx.one(_LOCK, item=item_id, nth=number)
    return None if row is None else int(row.id)


def add(tx: Tx, attempt_id: int, channel: Channel, chunks: Iterable[LogChunk]) -> None:
    """Insert chunks."""
    log = {"attempt_id": attempt_id, "channel": channel}
    rows = [log | {name: getattr(chunk, name) for name in LogChunk.__slots__} for chunk in chunks]
    tx.run(insert(log_chunks), rows)


def page(tx: Tx, attempt_id: int, channel: Channel, start: int, most: int) -> Sequence[LogChunk]:
    """The first chunks with bytes from `start` on."""
    rows = tx.all(_PAGE, attempt=attempt_id, log=channel, start=start, most=most)
    return [LogChunk(*tuple(row)) for row in rows]


def small(tx: Tx, attempt_id: int, channel: Channel) -> Sequence[LogChunk]:
    """The chunks whose bytes are in their row, in order."""
    rows = tx.all(_SMALL, attempt=attempt_id, log=channel)
    return [LogChunk(*tuple(row)) for row in rows]


def count_small(tx: Tx, attempt_id: int, channel: Channel) -> tuple[int, int]:
    """Number and bytes of the chunks whose bytes are in their row."""
    row = tx.require(_COUNT_SMALL, attempt=attempt_id, log=channel)
    return int(row.number), int(row.size)


def remove(tx: Tx, attempt_id: int, channel: Channel, chunks: Iterable[LogChunk]) -> None:
    """Delete chunks."""
    for chunk in chunks:
        tx.run(_REMOVE, {"attempt": attempt_id, "log": channel, "start": chunk.first})
