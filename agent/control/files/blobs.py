"""Blobs by digest: code archives that submitters pack and agents unpack."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from obstore.store import ObjectStore

from agent.control.files.storage import storage_errors
from agent.control.files.verifying import Verified
from agent.model.errors import InvalidInputError

DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")

_CHUNK: Final = 1024 * 1024
#: Parts in flight while a blob is written: bounds memory to about 2 × 5 MiB per upload.
_PARTS: Final = 2


class BlobStore:
    """Blobs of an entity. A blob is there wholly, with the bytes of its digest, or not at all.

    Who is told that one is there may count on it as if it were stored then. That is kept in
    memory: only one control plane uses a folder, and after its start it sweeps late.
    """

    def __init__(
        self,
        store: ObjectStore,
        max_bytes: int,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._max = max_bytes
        self._clock = clock
        #: When somebody was last told of a blob, by path.
        self._told: dict[str, datetime] = {}
        #: Held to look and tell, and to look whether anybody was told and delete.
        self._telling = asyncio.Lock()

    async def size(self, entity: str, digest: str) -> int | None:
        """Bytes of a blob; `None` when it is not there."""
        path = _path(entity, digest)
        async with self._telling:
            with storage_errors(f"Looking for {digest}"):
                try:
                    size = (await self._store.head_async(path))["size"]
                except FileNotFoundError:
                    return None
            self._told[path] = self._clock()
        return size

    async def put(self, entity: str, digest: str, chunks: AsyncIterator[bytes]) -> int:
        """Store what arrives, once all of it has arrived and its digest is right.

        The digest is checked inside the stream that the store consumes: whatever raises
        there, a cut connection included, makes the store drop what it has staged.

        Raises:
            DigestMismatchError: other bytes than promised.
            TooLargeError: more than `max_bytes`.
            StorageFullError: no space.
        """
        counted = Verified(chunks, "sha256", _hexadecimal(digest), self._max)
        if await self.size(entity, digest) is not None:
            async for _ in counted:
                pass
            return counted.size
        with storage_errors(f"Storing {digest}"):
            path = _path(entity, digest)
            try:
                await self._store.put_async(path, aiter(counted), max_concurrency=_PARTS)
            finally:
                await counted.let_go()
        return counted.size

    async def read(self, entity: str, digest: str) -> tuple[int, AsyncIterator[bytes]] | None:
        """Size and stream of a blob; `None` when it is not there."""
        with storage_errors(f"Reading {digest}"):
            try:
                found = await self._store.get_async(_path(entity, digest))
            except FileNotFoundError:
                return None
        return found.meta["size"], found.stream(_CHUNK)

    async def delete_old(self, entity: str, digest: str, moment: datetime) -> bool:
        """Remove a blob, unless somebody was told of it since; one that is gone is no error."""
        path = _path(entity, digest)
        async with self._telling:
            if path in self._told and self._told[path] >= moment:
                return False
            with storage_errors(f"Removing {digest}"), suppress(FileNotFoundError):
                await self._store.delete_async(path)
        return True

    async def older_than(self, entity: str, moment: datetime) -> list[str]:
        """Digests of an entity's blobs that were stored, and told of, before a moment."""
        found: list[str] = []
        self._told = {path: told for path, told in self._told.items() if told >= moment}
        with storage_errors(f"Listing the blobs of {entity}"):
            async for batch in self._store.list(f"blobs/{entity}/"):
                old = (meta["path"] for meta in batch if meta["last_modified"] < moment)
                found.extend(
                    f"sha256:{path.rsplit('/', 1)[1]}" for path in old if path not in self._told
                )
        return sorted(found)


def _path(entity: str, digest: str) -> str:
    return f"blobs/{entity}/{_hexadecimal(digest)}"


def _hexadecimal(digest: str) -> str:
    match = DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidInputError(f"'{digest}' is not a digest.", hint="Write sha256:<64 hex>.")
    return match[1]
