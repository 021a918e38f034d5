"""The bytes of artifacts: one object per content and entity, under a name used only once."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from obstore.store import ObjectStore

from agent.control.files.checksums import (
    TooLargeError,
    VerifiedUpload,
    check_md5,
    verified_download,
)
from agent.control.files.storage import storage_errors
from agent.control.services.contents import Contents
from agent.control.store.artifact_records import ContentRecord

_FOLDER: Final = "contents"
_CHUNK: Final = 1024 * 1024
#: Parts in flight while a content is written: bounds memory to about 2 × 5 MiB per upload.
_PARTS: Final = 2
#: Contents up to this size are written in one go and without a look first, which is quicker for
#: a thousand of them: clients ask which are missing before they send any.
_SMALL: Final = 1024 * 1024

#: Small contents, or bytes, that are written together, and how many such groups at a time.
_GROUP: Final = 128
_GROUP_BYTES: Final = 3 * 1024 * 1024
_AT_ONCE: Final = 2


@dataclass(frozen=True, slots=True)
class SmallContent:
    """A content that has arrived whole; its MD5 in hexadecimal is what it shall be."""

    entity: str
    md5: str
    data: bytes


class ContentStore:
    """A content is there wholly, with the bytes of its MD5, or not at all.

    The bytes are written first and recorded then; whoever is second with the same content
    takes its own bytes back.
    """

    def __init__(self, store: ObjectStore, rows: Contents, max_bytes: int) -> None:
        self._store = store
        self._rows = rows
        self._max = max_bytes

    async def put(
        self, entity: str, md5: str, chunks: AsyncIterator[bytes], announced: int | None
    ) -> int:
        """Store what arrives, once all of it has arrived and its MD5 is right; returns its size.

        Raises:
            DigestMismatchError: other bytes than promised.
            TooLargeError: more than the control plane takes.
            StorageFullError: no space.
        """
        counted = VerifiedUpload(chunks, md5, self._max)
        key = f"{_FOLDER}/{entity}/{secrets.token_hex(16)}"
        with storage_errors(f"Storing {md5}"):
            if announced is not None and announced <= _SMALL:
                await self._store.put_async(key, b"".join([chunk async for chunk in counted]))
            elif await self._rows.find(entity, md5) is None:
                await self._stream(key, counted)
            else:
                async for _ in counted:
                    pass
                return counted.size
        new = ContentRecord(entity, md5, key, counted.size)
        if (await self._rows.record(new)).key != key:
            await self.delete(key)
        return counted.size

    async def put_all(self, arriving: AsyncIterator[SmallContent]) -> int:
        """Store small contents as they arrive; returns how many they were.

        They are written in groups, by one switch of threads each, and recorded together. What
        was written before one that is wrong stays.

        Raises:
            DigestMismatchError, StorageFullError: as `put`.
        """
        written: list[ContentRecord] = []
        writing: set[asyncio.Task[None]] = set()
        try:
            async for group in _groups(arriving):
                writing = await _fewer_than(_AT_ONCE, writing)
                work = asyncio.to_thread(self._write_all, group, written)
                writing.add(asyncio.create_task(work, name="store contents"))
            await _fewer_than(1, writing)
        finally:
            # Also when the connection was cut: a thread goes on, and what it writes must count.
            await asyncio.gather(*writing, return_exceptions=True)
            await self._record_all(written)
        return len(written)

    async def _record_all(self, written: Sequence[ContentRecord]) -> None:
        if not written:
            return
        counting = await self._rows.record_all(written)
        for record in written:
            if counting[record.entity, record.md5].key != record.key:
                await self.delete(record.key)

    def _write_all(self, arrived: Sequence[SmallContent], written: list[ContentRecord]) -> None:
        """Write one after the other, each told in `written` as soon as it is there. Blocks."""
        for one in arrived:
            size = len(one.data)
            check_md5(one.md5, hashlib.md5(one.data, usedforsecurity=False), size)
            key = f"{_FOLDER}/{one.entity}/{secrets.token_hex(16)}"
            with storage_errors(f"Storing {one.md5}"):
                self._store.put(key, one.data)
            written.append(ContentRecord(one.entity, one.md5, key, size))

    async def _stream(self, key: str, counted: VerifiedUpload) -> None:
        try:
            await self._store.put_async(key, aiter(counted), max_concurrency=_PARTS)
        finally:
            await counted.cancel_pull()

    async def read(self, entity: str, md5: str) -> tuple[int, AsyncIterator[bytes]] | None:
        """Size and stream of a content, verified as it is read; `None` when it is not there."""
        known = await self._rows.find(entity, md5)
        if known is None:
            return None
        with storage_errors(f"Reading {md5}"):
            try:
                found = await self._store.get_async(known.key)
            except FileNotFoundError:
                return None
        return found.meta["size"], verified_download(found.stream(_CHUNK), md5)

    async def whole(self, entity: str, md5: str, limit: int) -> bytes | None:
        """All of a small content; `None` when it is not there.

        Raises:
            TooLargeError: it is larger than `limit`.
        """
        found = await self.read(entity, md5)
        if found is None:
            return None
        if found[0] > limit:
            raise TooLargeError(f"The content {md5} has {found[0]} bytes, at most {limit} can be.")
        return b"".join([chunk async for chunk in found[1]])

    async def delete(self, key: str) -> None:
        """Remove bytes; those that are not there are no error."""
        with storage_errors(f"Removing {key}"), suppress(FileNotFoundError):
            await self._store.delete_async(key)

    async def sweep(self, before: datetime) -> int:
        """Remove what no artifact refers to and nobody asked for since; how many there were.

        First those that the ledger forgets, then bytes that it never came to know: a process
        that was killed between writing and recording leaves such.
        """
        removed, last = 0, None
        while unused := await self._rows.unused(before, last):
            last = unused[-1]
            forgotten = await self._rows.delete_unused(unused, before)
            for one in forgotten:
                await self.delete(one.key)
            removed += len(forgotten)
        with storage_errors("Listing contents"):
            async for batch in self._store.list(f"{_FOLDER}/"):
                old = [meta["path"] for meta in batch if meta["last_modified"] < before]
                orphans = set(old) - await self._rows.known_keys(old)
                for key in orphans:
                    await self.delete(key)
                removed += len(orphans)
        return removed


async def _fewer_than(most: int, tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those that are left once fewer are under way; raises what ended one of the others."""
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
