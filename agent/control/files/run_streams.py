"""The bytes of runs' streams: history, system metrics (events) and console output.

Lines of a small update are stored in the database, in the transaction that records them; those
of a large one become an object in the object store first. Small chunks are merged into objects,
so that a run that reports every 15 seconds for a week has hundreds of them, not many thousands.
"""

import asyncio
import json
import secrets
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog
from obstore.store import ObjectStore

from agent.control.auth.policy import Principal
from agent.control.files.storage import delete_below, storage_errors
from agent.control.services.run_streams import RunName, RunStreams, Written
from agent.control.services.stored_bytes import StoredBytes
from agent.control.services.stream_update import (
    CHUNK_SIZE,
    Segment,
    StreamUpdate,
    chunked,
    segments,
    step_of,
)
from agent.control.store.run_streams import ChunkRecord, Stream
from agent.model.errors import LaunchError

_FOLDER: Final = "run-streams"
#: Lines of an update of fewer bytes are stored in the database.
_SMALL: Final = 256 * 1024
#: Bytes of an object that are read at once.
_READ_SIZE: Final = 4 * 1024 * 1024


class RunStreamStore:
    """Streams of lines, each written and read by line number."""

    def __init__(self, store: ObjectStore, rows: RunStreams, quota: StoredBytes) -> None:
        self._store = store
        self._rows = rows
        self._quota = quota

    async def write(self, principal: Principal, name: RunName, update: StreamUpdate) -> Written:
        """Store an update; when this returns, it is on disk.

        Raises:
            NotFoundError, PermissionDeniedError: as `RunStreams.append`.
            StorageFullError: no space; nothing of the update is stored.
            QuotaExceededError: more than the entity may store.
        """
        chunks: dict[Stream, Sequence[ChunkRecord]] = {
            lines.stream: await asyncio.to_thread(chunked, lines) for lines in update.streams
        }
        async with self._quota.arriving(name.entity) as arrival:
            for stream, parts in chunks.items():
                size = sum(part.size for part in parts)
                arrival.add(size)
                if size >= _SMALL:
                    run = await self._rows.place(principal, name)
                    chunks[stream] = await self._put(run.id, stream, parts)
            written = await self._rows.append(principal, name, update, chunks)
        for stream in written.to_merge:
            await self._merge(written.run_id, stream)
        return written

    async def lines(
        self, run_id: str, stream: Stream, first: int = 0, end: int | None = None
    ) -> AsyncIterator[tuple[int, Sequence[bytes]]]:
        """Consecutive lines with the number of their first one, in order, part by part."""
        wanted = segments(await self._rows.chunks(run_id, stream, first, end))
        async for segment, data in self._read(run_id, wanted):
            found, start = segment.lines(data), segment.first_line
            low = max(0, first - start)
            high = len(found) if end is None else min(segment.end_line, end) - start
            yield start + low, found[low:high]

    async def steps(
        self, run_id: str, steps: range, stream: Stream = "history"
    ) -> AsyncIterator["HistoryPart"]:
        """The parts of a run's history, or of its system metrics, that have rows of these steps."""
        index = segments(await self._rows.chunks_of_steps(run_id, stream, steps))
        wanted = [
            segment
            for segment in index
            if segment.chunk.max_step >= steps.start and segment.chunk.min_step < steps.stop
        ]
        async for segment, data in self._read(run_id, wanted):
            yield HistoryPart(segment, data)

    async def runs(self) -> list[str]:
        """Ids of all runs that have objects."""
        with storage_errors("Listing the streams of runs"):
            found = await self._store.list_with_delimiter_async(_FOLDER)
        return sorted(str(prefix).rsplit("/", 1)[-1] for prefix in found["common_prefixes"])

    async def delete_run(self, run_id: str) -> int:
        """Delete the objects of a run; returns their number."""
        with storage_errors(f"Removing the streams of run {run_id}"):
            return await delete_below(self._store, f"{_FOLDER}/{run_id}/")

    async def _read(
        self, run_id: str, wanted: Sequence[Segment]
    ) -> AsyncIterator[tuple[Segment, bytes]]:
        """Each segment with the bytes of its chunk; neighbours of one object are read at once."""
        for group in _neighbours(wanted):
            first, last = group[0].chunk, group[-1].chunk
            whole: bytes | memoryview | None = first.data
            if whole is None:
                with storage_errors(f"Reading a stream of run {run_id}"):
                    stop = last.position + last.size
                    found = await self._store.get_range_async(
                        f"{_FOLDER}/{run_id}/{first.object}", start=first.position, end=stop
                    )
                whole = memoryview(found)
            for segment in group:
                start = segment.chunk.position - first.position
                yield segment, bytes(whole[start : start + segment.chunk.size])

    async def _put(
        self, run_id: str, stream: Stream, parts: Sequence[ChunkRecord]
    ) -> Sequence[ChunkRecord]:
        """Store chunks as one object; returns them without their bytes."""
        name = f"{stream}-{parts[0].first_line:012d}-{secrets.token_hex(8)}"
        with storage_errors(f"Storing a stream of run {run_id}"):
            joined = b"".join(part.data or b"" for part in parts)
            await self._store.put_async(f"{_FOLDER}/{run_id}/{name}", joined)
        placed, position = [], 0
        for part in parts:
            placed.append(replace(part, data=None, object=name, position=position))
            position += part.size
        return placed

    async def _merge(self, run_id: str, stream: Stream) -> None:
        """Merge small chunks into an object; they stay if that fails, and are merged later."""
        chunks = await self._rows.chunks(run_id, stream)
        small = mergeable(chunks)
        if not small:
            return
        try:
            placed = await self._put(run_id, stream, await asyncio.to_thread(merge, small))
            await self._rows.merge(run_id, stream, small, placed)
        except LaunchError as error:
            structlog.get_logger().warning("chunks not merged", run=run_id, error=str(error))


@dataclass(frozen=True, slots=True)
class HistoryPart:
    """Consecutive rows of a history."""

    segment: Segment
    #: The bytes of the chunk.
    data: bytes

    @property
    def is_whole(self) -> bool:
        """Whether all lines of the chunk count."""
        chunk, segment = self.segment.chunk, self.segment
        return (chunk.first_line, chunk.end_line) == (segment.first_line, segment.end_line)

    def is_within(self, steps: range) -> bool:
        """Whether all rows are of these steps."""
        chunk = self.segment.chunk
        return steps.start <= chunk.min_step and chunk.max_step < steps.stop

    def of_steps(self, steps: range) -> Sequence[bytes]:
        """The rows of these steps.

        Of a part with others, too, a few rows are decoded where steps rise, else all of them.
        """
        lines, first = self.segment.lines(self.data), self.segment.first_line
        if self.is_within(steps):
            return lines

        def step(index: int) -> int:
            return step_of(json.loads(lines[index]), first + index)

        numbers = range(len(lines))
        if not self.segment.chunk.rising:
            return [lines[index] for index in numbers if step(index) in steps]
        start = bisect_left(numbers, steps.start, key=step)
        return lines[start : bisect_left(numbers, steps.stop, lo=start, key=step)]


def _neighbours(wanted: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Segments whose chunks lie next to each other in one object, up to `_READ_SIZE` bytes."""
    group: list[Segment] = []
    for segment in wanted:
        if group and not _follows(group, segment.chunk):
            yield group
            group = []
        group.append(segment)
    if group:
        yield group


def _follows(group: Sequence[Segment], chunk: ChunkRecord) -> bool:
    first, last = group[0].chunk, group[-1].chunk
    return (
        chunk.object is not None
        and chunk.object == last.object
        and chunk.position == last.position + last.size
        and chunk.position + chunk.size - first.position <= _READ_SIZE
    )


def mergeable(chunks: Sequence[ChunkRecord]) -> list[ChunkRecord]:
    """The small chunks that overlap no chunk stored in an object: one version can stand for all."""
    large = [chunk for chunk in chunks if chunk.data is None]
    return [
        chunk
        for chunk in chunks
        if chunk.data is not None
        and not any(
            each.first_line < chunk.end_line and chunk.first_line < each.end_line for each in large
        )
    ]


def merge(small: Sequence[ChunkRecord]) -> list[ChunkRecord]:
    """Joins small chunks; of a line that several have, that of the newest version is kept."""
    version = max(chunk.version for chunk in small)
    merged: list[ChunkRecord] = []
    for segment in segments(small):
        lines = segment.lines(segment.chunk.data or b"")
        data = b"\n".join(lines) + b"\n"
        chunk = segment.chunk
        part = ChunkRecord(
            segment.first_line,
            segment.end_line,
            chunk.min_step,
            chunk.max_step,
            chunk.rising,
            len(data),
            data,
            version=version,
        )
        last = merged[-1] if merged else None
        if last is not None and last.end_line == part.first_line and last.size < CHUNK_SIZE:
            merged[-1] = ChunkRecord(
                last.first_line,
                part.end_line,
                min(last.min_step, part.min_step),
                max(last.max_step, part.max_step),
                last.rising and part.rising and last.max_step < part.min_step,
                last.size + part.size,
                (last.data or b"") + data,
                version=version,
            )
        else:
            merged.append(part)
    return merged
