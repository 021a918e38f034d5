"""Logs by offset: what arrived twice is stored once, what is missing is asked for again.

Layout: `logs/<item>/<attempt>/<channel>/<start>-<end>`, both as 20 digits. A name says
exactly which bytes of the channel an object holds, so writing it twice writes the same
thing, and an object may be deleted as soon as another one covers it. Small pieces are
merged as they pile up, so that a job that prints a line a second for a week leaves
thousands of objects behind, not hundreds of thousands.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from obstore.store import ObjectStore

from agent.control.files.extents import Extent, chain, mergeable
from agent.control.files.storage import delete_below, names_below, storage_errors

#: Channels whose list of objects is kept in memory, at about 130 bytes per MiB of log.
_REMEMBERED: Final = 128
_READ: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class LogKey:
    """One channel of one attempt."""

    item_id: str
    attempt: int
    channel: str

    @property
    def prefix(self) -> str:
        """Where its objects are."""
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
        """Store bytes that begin at `offset`; returns the end of what is stored.

        Bytes that are stored already are skipped: the first to arrive stay. An answer below
        `offset` means a gap, and then nothing of `data` has been stored.
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
        """Bytes from `offset` on, at most `limit`, to the end as it is when reached."""
        channel = await self._channel(key)
        stop = channel.end if limit is None else min(channel.end, offset + limit)
        while offset < stop:
            extent = channel.extents[_holding(channel.extents, offset)]
            upto = min(extent.end, stop, offset + _READ)
            data = await self._piece(key, extent, offset, upto)
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
            names = await names_below(self._store, key.prefix)
        channel = _Channel(chain(Extent.parse(name.rsplit("/", 1)[1]) for name in names))
        self._channels[key] = channel
        self._forget()
        return channel

    def _forget(self) -> None:
        """Drop what was used longest ago, except where somebody is writing."""
        for key in list(self._channels)[: max(0, len(self._channels) - _REMEMBERED)]:
            if not self._channels[key].lock.locked():
                del self._channels[key]

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
        """Replace small objects at the end by one; new object first, then the old ones go."""
        first = mergeable(channel.extents)
        while first is not None:
            small = channel.extents[first:]
            merged = Extent(small[0].start, small[-1].end)
            joined = b"".join([data async for data in self.read(key, merged.start, merged.size)])
            with storage_errors(f"Storing the log of {key.item_id}"):
                await self._store.put_async(key.prefix + merged.name, joined)
                channel.extents[first:] = [merged]
                await self._store.delete_async([key.prefix + part.name for part in small])
            first = mergeable(channel.extents)


def _holding(extents: list[Extent], offset: int) -> int:
    return bisect_right(extents, offset, key=lambda extent: extent.start) - 1
