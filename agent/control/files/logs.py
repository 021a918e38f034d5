"""Logs: append-only byte streams in the object store, written idempotently by offset.

Layout: `logs/<item>/<attempt>/<channel>/<start>-<end>`, both with 20 digits. The name says
which bytes of the channel an object holds, so that writing it again is harmless, and an object
may be deleted as soon as another one covers it. Small objects are merged, so that a job that
prints a line a second for a week leaves thousands of objects, not hundreds of thousands.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from obstore.store import ObjectStore

from agent.control.files.storage import delete_below, list_names, storage_errors

#: Channels whose list of objects is kept in memory, at about 130 bytes per MiB of log.
_CACHE_SIZE: Final = 128
#: Bytes of a log that `LogStore.read` yields at a time.
_READ_SIZE: Final = 256 * 1024
#: An object of fewer bytes is small.
_MEDIUM_OBJECT: Final = 16 * 1024
#: An object of at least this many bytes is large: it is never merged.
_LARGE_OBJECT: Final = 1024 * 1024
#: So many small or so many medium objects are merged, or fewer that make a large one.
_MERGE_COUNT: Final = 32


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes `start` (inclusive) to `end` (exclusive)."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def name(self) -> str:
        """Name of the object; sorts by start, then end."""
        return f"{self.start:020d}-{self.end:020d}"

    @classmethod
    def parse(cls, name: str) -> "Extent":
        """The reverse of `name`."""
        start, _, end = name.partition("-")
        return cls(int(start), int(end))


@dataclass(frozen=True, slots=True)
class LogKey:
    """One channel of one attempt."""

    item_id: str
    attempt: int
    channel: str

    @property
    def prefix(self) -> str:
        """Prefix of its objects."""
        return f"logs/{self.item_id}/{self.attempt}/{self.channel}/"


@dataclass(slots=True)
class _Channel:
    extents: list[Extent]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def end(self) -> int:
        return self.extents[-1].end if self.extents else 0


class LogStore:
    """Append-only byte streams, one per channel of an attempt."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._channels: OrderedDict[LogKey, _Channel] = OrderedDict()
        self._loading = asyncio.Lock()

    async def append(self, key: LogKey, offset: int, data: bytes) -> int:
        """Store bytes that begin at `offset`; returns the end of the stored bytes.

        Bytes that are stored already are skipped. A result below `offset` means that bytes
        before it are missing, and that nothing of `data` was stored.
        """
        channel = await self._channel(key)
        async with channel.lock:
            end = channel.end
            fresh = data[end - offset :] if offset <= end else b""
            if fresh:
                extent = Extent(end, end + len(fresh))
                with storage_errors(f"Storing the log of {key.item_id}"):
                    await self._store.put_async(key.prefix + extent.name, fresh)
                channel.extents.append(extent)
                await self._merge(key, channel)
            return channel.end

    async def end(self, key: LogKey) -> int:
        """How many bytes are stored."""
        return (await self._channel(key)).end

    async def read(self, key: LogKey, offset: int, limit: int | None) -> AsyncIterator[bytes]:
        """Bytes from `offset` on, at most `limit`, up to the end at the time of the call."""
        channel = await self._channel(key)
        stop = channel.end if limit is None else min(channel.end, offset + limit)
        while offset < stop:
            index = bisect_right(channel.extents, offset, key=lambda extent: extent.start) - 1
            extent = channel.extents[index]
            piece_end = min(extent.end, stop, offset + _READ_SIZE)
            data = await self._piece(key, extent, offset, piece_end)
            if data is None:
                # A merge replaced the object between looking it up and reading it.
                continue
            yield data
            offset += len(data)

    async def items(self) -> list[str]:
        """Ids of all items that have a log."""
        with storage_errors("Listing the logs"):
            found = await self._store.list_with_delimiter_async("logs")
        return sorted(str(prefix).rsplit("/", 1)[-1] for prefix in found["common_prefixes"])

    async def delete_item(self, item_id: str) -> int:
        """Remove all logs of an item; returns how many objects there were."""
        for key in [key for key in self._channels if key.item_id == item_id]:
            del self._channels[key]
        with storage_errors(f"Removing the logs of {item_id}"):
            return await delete_below(self._store, f"logs/{item_id}/")

    async def _channel(self, key: LogKey) -> _Channel:
        known = self._channels.get(key)
        if known is None:
            # One loader at a time: two would make two locks for one channel.
            async with self._loading:
                known = self._channels.get(key) or await self._load(key)
        self._channels.move_to_end(key)
        return known

    async def _load(self, key: LogKey) -> _Channel:
        with storage_errors(f"Reading the log of {key.item_id}"):
            names = await list_names(self._store, key.prefix)
        channel = _Channel(covering_extents(Extent.parse(name.rsplit("/", 1)[1]) for name in names))
        self._channels[key] = channel
        # Drop the least recently used channels, except those that are being written.
        for old in list(self._channels)[: max(0, len(self._channels) - _CACHE_SIZE)]:
            if not self._channels[old].lock.locked():
                del self._channels[old]
        return channel

    async def _piece(self, key: LogKey, extent: Extent, start: int, end: int) -> bytes | None:
        with storage_errors(f"Reading the log of {key.item_id}"):
            try:
                piece = await self._store.get_range_async(
                    key.prefix + extent.name, start=start - extent.start, end=end - extent.start
                )
            except FileNotFoundError:
                return None
        return bytes(piece)

    async def _merge(self, key: LogKey, channel: _Channel) -> None:
        """Replace small objects at the end by one, which is written before they are deleted."""
        first = first_to_merge(channel.extents)
        while first is not None:
            small = channel.extents[first:]
            merged = Extent(small[0].start, small[-1].end)
            joined = b"".join([data async for data in self.read(key, merged.start, merged.size)])
            with storage_errors(f"Storing the log of {key.item_id}"):
                await self._store.put_async(key.prefix + merged.name, joined)
                channel.extents[first:] = [merged]
                await self._store.delete_async([key.prefix + part.name for part in small])
            first = first_to_merge(channel.extents)


def covering_extents(found: Iterable[Extent]) -> list[Extent]:
    """The extents that cover a log from 0 without a gap.

    An interrupted merge leaves the merged object beside its parts, which are then left out.
    Bytes beyond a gap are not part of the log.
    """
    chosen: list[Extent] = []
    end = 0
    for extent in sorted(found, key=lambda each: (each.start, -each.end)):
        if extent.start > end:
            break
        if extent.end > end:
            chosen.append(extent)
            end = extent.end
    return chosen


def first_to_merge(extents: Sequence[Extent]) -> int | None:
    """Index from which on the last extents should be merged; `None` to leave them.

    Objects are small, medium or large, and only objects of one class are merged, so that each
    byte is rewritten a few times at most.
    """
    if not extents or extents[-1].size >= _LARGE_OBJECT:
        return None
    size_class = _size_class(extents[-1])
    first = len(extents)
    total = 0
    while first and _size_class(extents[first - 1]) == size_class:
        first -= 1
        total += extents[first].size
    count = len(extents) - first
    return first if count >= _MERGE_COUNT or (count > 1 and total >= _LARGE_OBJECT) else None


def _size_class(extent: Extent) -> int:
    return (extent.size >= _MEDIUM_OBJECT) + (extent.size >= _LARGE_OBJECT)
