"""The bytes of logs: append-only, written idempotently by offset, through any replica.

Small pieces are stored in the database, in the transaction that records them; large ones become
an object first. Small chunks are merged into objects, so that a job that prints a line a second
for a week leaves thousands of them, not hundreds of thousands.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog
from obstore.store import ObjectStore

from agent.control.auth.policy import Principal
from agent.control.files.storage import delete_below, storage_errors
from agent.control.services.logs import AttemptLogs, LogKey
from agent.control.store.history import Channel
from agent.control.store.log_chunks import LogChunk
from agent.model.errors import LaunchError, ServerError
from agent.model.work import Lease

#: Bytes of a log that `LogStore.read` yields at a time.
_READ_SIZE: Final = 256 * 1024
#: Pieces of fewer bytes are stored in the database.
_SMALL: Final = 32 * 1024


class LogStore:
    """Append-only byte streams, one per channel of an attempt."""

    def __init__(self, store: ObjectStore, rows: AttemptLogs) -> None:
        self._store = store
        self._rows = rows

    async def append(
        self, principal: Principal, lease: Lease, channel: Channel, end: int, data: bytes
    ) -> int:
        """Store bytes at the end of a log; returns where it ends.

        Nothing was stored if that is not behind `data`: another call has stored some meanwhile.

        Raises:
            FencedError, NotFoundError: as `AttemptLogs.check_append`.
        """
        key = LogKey(lease.item_id, lease.attempt, channel)
        chunk = LogChunk(end, end + len(data), data=data)
        if len(data) >= _SMALL:
            chunk = LogChunk(end, end + len(data), object=await self._put(key, end, data))
        added = await self._rows.append(principal, lease, channel, chunk)
        if not added.stored and chunk.object is not None:
            await self._delete(key, chunk.object)
        if added.merge:
            await self._merge(key)
        return added.end

    async def read(self, key: LogKey, offset: int, limit: int) -> AsyncIterator[bytes]:
        """Bytes from `offset` on, at most `limit`; the caller has checked the right to read."""
        stop, failed_at = offset + limit, -1
        while offset < stop:
            chunks = await self._rows.chunks(key, offset)
            if not chunks:
                return
            for chunk in chunks:
                if offset >= stop:
                    break
                async for piece in self._pieces(key, chunk, offset, min(stop, chunk.stop)):
                    yield piece
                    offset += len(piece)
                if offset < min(stop, chunk.stop):
                    # A merge has deleted the object since: the index names another one now.
                    if failed_at == offset:
                        message = f"Reading the log of {key.item_id}: an object is missing"
                        raise ServerError(f"{message}: {key.prefix}{chunk.object}.")
                    failed_at = offset
                    break

    async def items(self) -> list[str]:
        """Ids of all items that have objects."""
        with storage_errors("Listing the logs"):
            found = await self._store.list_with_delimiter_async("logs")
        return sorted(str(prefix).rsplit("/", 1)[-1] for prefix in found["common_prefixes"])

    async def delete_item(self, item_id: str) -> int:
        """Remove the objects of an item's logs; returns how many there were."""
        with storage_errors(f"Removing the logs of {item_id}"):
            return await delete_below(self._store, f"logs/{item_id}/")

    async def _pieces(
        self, key: LogKey, chunk: LogChunk, start: int, stop: int
    ) -> AsyncIterator[bytes]:
        """Bytes of a chunk; none of an object that is gone."""
        if chunk.data is not None:
            yield chunk.data[start - chunk.first : stop - chunk.first]
            return
        shift = chunk.position - chunk.first
        while start < stop:
            end = min(stop, start + _READ_SIZE)
            with storage_errors(f"Reading the log of {key.item_id}"):
                try:
                    found = await self._store.get_range_async(
                        f"{key.prefix}{chunk.object}", start=start + shift, end=end + shift
                    )
                except FileNotFoundError:
                    return
            yield bytes(found)
            start += len(found)

    async def _put(self, key: LogKey, first: int, data: bytes) -> str:
        name = f"{first:020d}-{secrets.token_hex(8)}"
        with storage_errors(f"Storing the log of {key.item_id}"):
            await self._store.put_async(key.prefix + name, data)
        return name

    async def _delete(self, key: LogKey, name: str) -> None:
        with storage_errors(f"Removing a piece of the log of {key.item_id}"):
            await self._store.delete_async(key.prefix + name)

    async def _merge(self, key: LogKey) -> None:
        """Merge small chunks into an object; they stay if that fails, and are merged later."""
        small: Sequence[LogChunk] = await self._rows.small_chunks(key)
        if not small:
            return
        try:
            name = await self._put(
                key, small[0].first, b"".join(each.data or b"" for each in small)
            )
            if not await self._rows.merge(key, small, name):
                await self._delete(key, name)
        except LaunchError as error:
            structlog.get_logger().warning("log not merged", item=key.item_id, error=str(error))
