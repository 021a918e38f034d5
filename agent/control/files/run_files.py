"""Files that runs upload beside their artifacts: metadata, requirements, configuration, output."""

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

from obstore.store import ObjectStore

from agent.control.files.storage import delete_below, storage_errors
from agent.model.errors import InvalidInputError, TooLargeError
from agent.model.job.paths import inside

_FOLDER: Final = "run-files"
_PARTS: Final = 2


class RunFileStore:
    """Files of runs by name; a later upload replaces an earlier one."""

    def __init__(self, store: ObjectStore, max_bytes: int) -> None:
        self._store = store
        self._max = max_bytes

    async def put(self, run_id: str, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Store a file once all of it has arrived.

        Raises:
            TooLargeError: larger than the control plane accepts.
            InvalidInputError: a path outside of the run's folder.
        """
        with storage_errors(f"Storing {name} of run {run_id}"):
            key = f"{_FOLDER}/{run_id}/{quote(checked_run_file(name), safe='')}"
            limited = _limited(chunks, self._max)
            await self._store.put_async(key, limited, max_concurrency=_PARTS)

    async def delete_run(self, run_id: str) -> int:
        """Delete the files of a run; returns their number."""
        with storage_errors(f"Removing the files of run {run_id}"):
            return await delete_below(self._store, f"{_FOLDER}/{run_id}/")


def checked_run_file(name: str) -> str:
    """The path of a file in its run's folder.

    Raises:
        InvalidInputError: it is outside of that folder.
    """
    if inside(name, "run's file") == "":
        raise InvalidInputError(f"'{name}' is not the path of a file.")
    return name


async def _limited(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise TooLargeError(f"The file is larger than the {limit} bytes that are allowed.")
        yield chunk
