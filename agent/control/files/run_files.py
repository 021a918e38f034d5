"""Files that runs upload beside their artifacts: metadata, requirements, configuration, output."""

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

from obstore.store import ObjectStore

from agent.control.files.checksums import TooLargeError
from agent.control.files.storage import delete_below, storage_errors
from agent.model.errors import InvalidInputError
from agent.model.job.paths import inside

_FOLDER: Final = "run-files"
_PARTS: Final = 2


class RunFileStore:
    """Files of runs by name; a later upload replaces an earlier one."""

    def __init__(self, store: ObjectStore, max_bytes: int) -> None:
        self._store = store
        self._max = max_bytes

    async def put(self, run_id: str, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Store a file, once all of it has arrived.

        Raises:
            TooLargeError: more than the control plane takes.
            InvalidInputError: a name that leads elsewhere.
        """
        with storage_errors(f"Storing {name} of run {run_id}"):
            limited = _limited(chunks, self._max)
            await self._store.put_async(_key(run_id, name), limited, max_concurrency=_PARTS)

    async def delete_run(self, run_id: str) -> int:
        """Remove the files of a run; how many there were."""
        with storage_errors(f"Removing the files of run {run_id}"):
            return await delete_below(self._store, f"{_FOLDER}/{run_id}/")


def checked_run_file(name: str) -> str:
    """A file's name inside its run.

    Raises:
        InvalidInputError: it leads elsewhere.
    """
    if inside(name, "run's file") == "":
        raise InvalidInputError(f"'{name}' is no file of a run.")
    return name


def _key(run_id: str, name: str) -> str:
    return f"{_FOLDER}/{run_id}/{quote(checked_run_file(name), safe='')}"


async def _limited(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise TooLargeError(f"The file is larger than the {limit} bytes that are allowed.")
        yield chunk
