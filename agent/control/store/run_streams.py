"""Streams of runs: their state, and the index of their chunks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import and_, delete, func, insert, select, update

from agent.control.store.run_tables import run_chunks, run_streams
from agent.control.store.tables import record_of
from agent.control.store.tx import Tx
from agent.model.spec import Json

Stream = Literal["history", "events", "output"]


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """The state of a stream; see the table."""

    line_count: int = 0
    version: int = 0
    last_step: int | None = None
    keys: Json | None = None
    tail: bytes = b""
    small_chunks: int = 0
    small_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """Lines `first_line` (inclusive) to `end_line` (exclusive); see the table."""

    first_line: int
    end_line: int
    min_step: int
    max_step: int
    rising: bool
    size: int
    data: bytes | None = None
    object: str | None = None
    position: int = 0
    version: int = 0


#: In the order of `ChunkRecord`, of which long histories have thousands.
_CHUNK: Final = [run_chunks.c[name] for name in ChunkRecord.__slots__]


def states(tx: Tx, run_id: str) -> dict[str, StreamRecord]:
    """The streams of a run that have lines, by name."""
    rows = tx.all(select(run_streams).where(run_streams.c.run_id == run_id))
    return {row.stream: record_of(StreamRecord, row) for row in rows}


def save(tx: Tx, run_id: str, stream: Stream, values: dict[str, Any], *, new: bool) -> None:
    """Insert or change the state of a stream; the run is locked."""
    if new:
        tx.run(insert(run_streams).values(run_id=run_id, stream=stream, **values))
        return
    where = (run_streams.c.run_id == run_id, run_streams.c.stream == stream)
    tx.run(update(run_streams).where(*where).values(**values))


def add_chunks(tx: Tx, run_id: str, stream: Stream, chunks: Iterable[ChunkRecord]) -> None:
    """Insert chunks."""
    rows = [
        {
            "run_id": run_id,
            "stream": stream,
            **{name: getattr(chunk, name) for name in ChunkRecord.__slots__},
        }
        for chunk in chunks
    ]
    if rows:
        tx.run(insert(run_chunks), rows)


def chunks(
    tx: Tx, run_id: str, stream: Stream, first: int = 0, end: int | None = None
) -> Sequence[ChunkRecord]:
    """The chunks with lines from `first` (inclusive) to `end` (exclusive), by first line."""
    query = select(*_CHUNK).where(
        run_chunks.c.run_id == run_id,
        run_chunks.c.stream == stream,
        run_chunks.c.end_line > first,
    )
    if end is not None:
        query = query.where(run_chunks.c.first_line < end)
    rows = tx.all(query.order_by(run_chunks.c.first_line, run_chunks.c.version))
    return [ChunkRecord(*tuple(row)) for row in rows]


def chunks_of_steps(tx: Tx, run_id: str, stream: Stream, steps: range) -> Sequence[ChunkRecord]:
    """As `chunks`, of those lines between which the chunks with some of these steps lie."""
    first, end = func.min(run_chunks.c.first_line), func.max(run_chunks.c.end_line)
    query = select(first.label("first"), end.label("end")).where(
        run_chunks.c.run_id == run_id,
        run_chunks.c.stream == stream,
        run_chunks.c.max_step >= steps.start,
        run_chunks.c.min_step < steps.stop,
    )
    found = tx.require(query)
    return () if found.end is None else chunks(tx, run_id, stream, found.first, found.end)


def remove_chunks(tx: Tx, run_id: str, stream: Stream, gone: Iterable[ChunkRecord]) -> None:
    """Delete chunks."""
    for chunk in gone:
        where = and_(
            run_chunks.c.run_id == run_id,
            run_chunks.c.stream == stream,
            run_chunks.c.first_line == chunk.first_line,
            run_chunks.c.version == chunk.version,
        )
        tx.run(delete(run_chunks).where(where))


def size(tx: Tx, run_id: str) -> int:
    """Bytes of all streams of a run."""
    query = select(func.coalesce(func.sum(run_chunks.c.size), 0))
    return int(tx.run(query.where(run_chunks.c.run_id == run_id)).scalar_one())
