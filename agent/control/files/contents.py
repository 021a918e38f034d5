"""Contents: the bytes of artifacts' files, one object per entity and MD5, under a unique key."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from obstore.store import ObjectStore

from agent.control.files.storage import (
    VerifiedUpload,
    check_md5,
    read_range,
    storage_errors,
    verified_download,
)
from agent.control.services.contents import Contents
from agent.control.services.stored_bytes import Arrival, StoredBytes
from agent.control.store.contents import ContentRecord
from agent.model.errors import NotFoundError, TooLargeError

_FOLDER: Final = "contents"
#: Parts in flight while a content is written: bounds memory to about 2 × 5 MiB per upload.
_PARTS: Final = 2
#: Contents up to this size are written at once, without checking first whether they are stored
#: already: clients ask which are missing before they send any.
_SMALL: Final = 1024 * 1024
#: Number and bytes of small contents that one thread writes, and the number of threads.
_GROUP: Final = 128
_GROUP_BYTES: Final = 3 * 1024 * 1024
_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class SmallContent:
    """A content in memory, with the announced MD5 in hexadecimal."""

    entity: str
    md5: str
    data: bytes


class ContentStore:
    """A content is stored completely, with the right MD5, or not at all.

    Bytes are written before their row. Of two uploads of the same content, the one that is
    recorded second deletes its own bytes.
    """

    def __init__(
        self, store: ObjectStore, rows: Contents, quota: StoredBytes, max_bytes: int
    ) -> None:
        self._store = store
        self._rows = rows
        self._quota = quota
        self._max = max_bytes

    async def put(
        self, entity: str, md5: str, chunks: AsyncIterator[bytes], announced: int | None
    ) -> int:
        """Store a content once all of it has arrived with the right MD5; returns its size.

        Raises:
            DigestMismatchError: other bytes than announced.
            TooLargeError: more than the control plane accepts.
            QuotaExceededError: more than the entity may store.
            StorageFullError: no space.
        """
        async with self._quota.arriving(entity) as arrival:
            upload = VerifiedUpload(chunks, md5, self._max, arrival.add)
            return await self._put(entity, md5, upload, announced)

    async def _put(
        self, entity: str, md5: str, upload: VerifiedUpload, announced: int | None
    ) -> int:
        key = f"{_FOLDER}/{entity}/{secrets.token_hex(16)}"
        with storage_errors(f"Storing {md5}"):
            if announced is not None and announced <= _SMALL:
                await self._store.put_async(key, b"".join([chunk async for chunk in upload]))
            elif await self._rows.find(entity, md5) is None:
                try:
                    await self._store.put_async(key, aiter(upload), max_concurrency=_PARTS)
                finally:
                    await upload.cancel_pull()
            else:
                async for _ in upload:
                    pass
                return upload.size
        new = ContentRecord(entity, md5, key, upload.size)
        if (await self._rows.record(new)).key != key:
            await self.delete(key)
        return upload.size

    async def put_all(self, arriving: AsyncIterator[SmallContent]) -> int:
        """Store small contents as they arrive; returns their number.

        They are written in groups, each in one thread call, and recorded together. Contents
        that were written before one that is wrong stay stored.

        Raises:
            DigestMismatchError, QuotaExceededError, StorageFullError: as `put`.
        """
        async with AsyncExitStack() as stack:
            return await self._put_all(self._counted(arriving, stack))

    async def _counted(
        self, arriving: AsyncIterator[SmallContent], stack: AsyncExitStack
    ) -> AsyncIterator[SmallContent]:
        counts: dict[str, Arrival] = {}
        async for one in arriving:
            if one.entity not in counts:
                entered = self._quota.arriving(one.entity)
                counts[one.entity] = await stack.enter_async_context(entered)
            counts[one.entity].add(len(one.data))
            yield one

    async def _put_all(self, arriving: AsyncIterator[SmallContent]) -> int:
        written: list[ContentRecord] = []
        writing: set[asyncio.Task[None]] = set()
        try:
            async for group in _groups(arriving):
                writing = await _fewer_than(_THREADS, writing)
                work = asyncio.to_thread(self._write_all, group, written)
                writing.add(asyncio.create_task(work, name="store contents"))
            await _fewer_than(1, writing)
        finally:
            # Also when the connection is lost: threads continue, and what they write is recorded.
            await asyncio.gather(*writing, return_exceptions=True)
            await self._record_all(written)
        return len(written)

    async def _record_all(self, written: Sequence[ContentRecord]) -> None:
        if not written:
            return
        valid = await self._rows.record_all(written)
        for record in written:
            if valid[record.entity, record.md5].key != record.key:
                await self.delete(record.key)

    def _write_all(self, arrived: Sequence[SmallContent], written: list[ContentRecord]) -> None:
        """Write each content and add it to `written`; blocks."""
        for one in arrived:
            size = len(one.data)
            check_md5(one.md5, hashlib.md5(one.data, usedforsecurity=False), size)
            key = f"{_FOLDER}/{one.entity}/{secrets.token_hex(16)}"
            with storage_errors(f"Storing {one.md5}"):
                self._store.put(key, one.data)
            written.append(ContentRecord(one.entity, one.md5, key, size))

    async def read(self, entity: str, md5: str) -> tuple[int, AsyncIterator[bytes]] | None:
        """Size and verified stream of a content; `None` when it is not stored."""
        known = await self._rows.find(entity, md5)
        if known is None:
            return None
        with storage_errors(f"Reading {md5}"):
            try:
                found = await self._store.head_async(known.key)
            except FileNotFoundError:
                return None
        pieces = read_range(self._store, known.key, 0, found["size"], f"Reading {md5}")
        return known.size, verified_download(pieces, md5)

    async def read_part(self, entity: str, md5: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `end` (exclusive) of a content, which no MD5 verifies.

        Raises:
            NotFoundError: it was deleted meanwhile.
        """
        known = await self._rows.find(entity, md5)
        if known is None:
            raise NotFoundError(f"There is no content {md5} in '{entity}'.")
        return read_range(self._store, known.key, start, end, f"Reading {md5}")

    async def read_all(self, entity: str, md5: str, limit: int) -> bytes | None:
        """All bytes of a small content; `None` when it is not stored.

        Raises:
            TooLargeError: it is larger than `limit`.
        """
        found = await self.read(entity, md5)
        if found is None:
            return None
        if found[0] > limit:
            raise TooLargeError(f"The content {md5} has {found[0]} bytes; {limit} are allowed.")
        return b"".join([chunk async for chunk in found[1]])

    async def delete(self, key: str) -> None:
        """Delete an object; does nothing if there is none."""
        with storage_errors(f"Removing {key}"), suppress(FileNotFoundError):
            await self._store.delete_async(key)

    async def remove_unused(self, before: datetime) -> int:
        """Delete contents that no artifact refers to, unused since `before`; their number.

        First those that have rows, then objects without a row, which remain of a process
        that was killed between writing and recording.
        """
        removed, last = 0, None
        while unused := await self._rows.unused(before, last):
            last = unused[-1]
            deleted = await self._rows.delete_unused(unused, before)
            for content in deleted:
                await self.delete(content.key)
            removed += len(deleted)
        with storage_errors("Listing contents"):
            async for batch in self._store.list(f"{_FOLDER}/"):
                old = [meta["path"] for meta in batch if meta["last_modified"] < before]
                orphans = set(old) - await self._rows.known_keys(old)
                for key in orphans:
                    await self.delete(key)
                removed += len(orphans)
        return removed


async def _fewer_than(most: int, tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait until fewer tasks run; returns those, and raises the errors of the others."""
    while len(tasks) >= most:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    return tasks


async def _groups(arriving: AsyncIterator[SmallContent]) -> AsyncIterator[list[SmallContent]]:
    group: list[SmallContent] = []
    size = 0
    async for one in arriving:
        group.append(one)
        size += len(one.data)
        if len(group) == _GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
