"""Files that runs upload beside their artifacts: metadata, requirements, configuration, output."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final
from urllib.parse import quote

from obstore.store import ObjectStore

from agent.control.files.storage import check_md5, delete_below, read_range, storage_errors
from agent.control.services.stored_bytes import Arrival, StoredBytes
from agent.model.errors import InvalidInputError, NotFoundError, TooLargeError
from agent.model.job.paths import inside

_FOLDER: Final = "run-files"
_PARTS: Final = 2
#: It is one name in a folder, and the store adds some characters while it writes.
_MAX_NAME_CHARS: Final = 240


class RunFileStore:
    """Files of runs by name; a later upload replaces an earlier one."""

    def __init__(self, store: ObjectStore, quota: StoredBytes, max_bytes: int) -> None:
        self._store = store
        self._quota = quota
        self._max = max_bytes

    async def put(
        self,
        entity: str,
        run_id: str,
        name: str,
        chunks: AsyncIterator[bytes],
        md5: str | None = None,
    ) -> None:
        """Store a file once all of it has arrived, with this MD5 (hexadecimal) if one is given.

        Raises:
            TooLargeError: larger than the control plane accepts.
            QuotaExceededError: more than the entity may store.
            DigestMismatchError: other bytes than announced.
            InvalidInputError: a path outside of the run's folder.
            NotFoundError: the run was deleted meanwhile.
        """
        name = checked_run_file(name)
        key = _key(run_id, name)
        async with self._quota.arriving(entity) as arrival:
            limited = _limited(chunks, self._max, arrival, md5)
            with storage_errors(f"Storing {name} of run {run_id}"):
                await self._store.put_async(key, limited, max_concurrency=_PARTS)
            try:
                await self._quota.save_run_file(entity, run_id, name, arrival.size)
            except NotFoundError:
                await self.delete_run(run_id)
                raise

    async def read(self, run_id: str, name: str, limit: int) -> bytes | None:
        """A small file; `None` when the run has none of that name.

        Raises:
            TooLargeError: it has more bytes than `limit`.
        """
        with storage_errors(f"Reading {name} of run {run_id}"):
            try:
                found = await self._store.get_async(_key(run_id, name))
            except FileNotFoundError:
                return None
            if found.meta["size"] > limit:
                raise TooLargeError(f"`{name}` has {found.meta['size']} bytes.")
            return bytes(await found.bytes_async())

    async def find(self, run_id: str, name: str) -> tuple[int, str] | None:
        """Size and entity tag of a file; `None` when there is none."""
        with storage_errors(f"Reading {name} of run {run_id}"):
            try:
                found = await self._store.head_async(_key(run_id, name))
            except FileNotFoundError:
                return None
        return found["size"], found["e_tag"] or f'"{found["size"]}"'

    def read_part(self, run_id: str, name: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes `start` (inclusive) to `end` (exclusive)."""
        what = f"Reading {name} of run {run_id}"
        return read_range(self._store, _key(run_id, name), start, end, what)

    async def delete(self, run_id: str, name: str) -> None:
        """Delete a file; legal when there is none."""
        with storage_errors(f"Removing {name} of run {run_id}"), suppress(FileNotFoundError):
            await self._store.delete_async(_key(run_id, name))

    async def runs(self) -> list[str]:
        """Ids of all runs that have files."""
        with storage_errors("Listing the files of runs"):
            found = await self._store.list_with_delimiter_async(_FOLDER)
        return sorted(str(prefix).rsplit("/", 1)[-1] for prefix in found["common_prefixes"])

    async def delete_run(self, run_id: str) -> int:
        """Delete the files of a run; returns their number."""
        with storage_errors(f"Removing the files of run {run_id}"):
            return await delete_below(self._store, f"{_FOLDER}/{run_id}/")


def _key(run_id: str, name: str) -> str:
    return f"{_FOLDER}/{run_id}/{quote(checked_run_file(name), safe='')}"


def checked_run_file(name: str) -> str:
    """The path of a file in its run's folder, in its shortest form.

    Raises:
        InvalidInputError: it is outside of that folder, or too long.
    """
    shortest = inside(name, "run's file")
    if not shortest:
        raise InvalidInputError(f"'{name}' is not the path of a file.")
    if len(quote(shortest, safe="")) > _MAX_NAME_CHARS:
        message = (
            f"The path '{name[:80]}…' of a run's file has more than {_MAX_NAME_CHARS} characters."
        )
        raise InvalidInputError(
            message, hint="Characters beyond ASCII, and `/`, count several times."
        )
    return shortest


async def _limited(
    chunks: AsyncIterator[bytes], limit: int, arrival: Arrival, md5: str | None
) -> AsyncIterator[bytes]:
    received = hashlib.md5(usedforsecurity=False)
    async for chunk in chunks:
        arrival.add(len(chunk))
        received.update(chunk)
        if arrival.size > limit:
            raise TooLargeError(f"The file is larger than the {limit} bytes that are allowed.")
        yield chunk
    if md5 is not None:
        check_md5(md5, received, arrival.size)
