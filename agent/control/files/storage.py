"""The object store below contents, run files and logs: a folder, and streams checked by MD5."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore

from agent.model.errors import InvalidInputError, ServerError, TooLargeError

#: The first parts of all names.
FOLDERS: Final = ("contents", "logs", "run-files", "run-streams")
#: The name of an object that is still being written by a local store: `<name>#<number>`.
_STAGED: Final = re.compile(r".#\d+$")


class StorageFullError(ServerError):
    """No space is left in the object store."""

    code = "STORAGE_FULL"


class DigestMismatchError(InvalidInputError):
    """The bytes that arrived do not have the announced MD5."""

    code = "DIGEST_MISMATCH"


class DamagedError(ServerError):
    """The bytes in the object store are not those that were stored."""

    code = "DAMAGED"


async def open_folder(root: Path) -> ObjectStore:
    """Open a folder as an object store; incomplete objects of a killed process are deleted.

    Only one control plane may use a folder: it would delete what another one is writing.
    """
    await asyncio.to_thread(_prepare, root)
    return LocalStore(str(root), mkdir=True, automatic_cleanup=True)


def _prepare(root: Path) -> None:
    for folder in (root, *(root / name for name in FOLDERS)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The store makes folders and files below by the umask alone.
        folder.chmod(0o700)
    for path in root.rglob("*#*"):
        if _STAGED.search(path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn failures of the object store into errors that name the operation.

    Raises:
        StorageFullError: no space.
        ServerError: any other failure of the store.
    """
    try:
        yield
    except (BaseError, OSError) as error:
        text = str(error).split("\n", 1)[0]
        if "No space left" in str(error) or "os error 28" in str(error):
            message = f"{what}: the disk of the control plane is full."
            raise StorageFullError(message, hint="Free space in its data folder.") from error
        raise ServerError(f"{what}: the store failed: {text}") from error


async def list_names(store: ObjectStore, prefix: str) -> list[str]:
    """Full names of all objects below a prefix, in no particular order."""
    found: list[str] = []
    async for batch in store.list(prefix):
        found.extend(meta["path"] for meta in batch)
    return found


async def delete_below(store: ObjectStore, prefix: str) -> int:
    """Delete all objects below a prefix; returns how many there were."""
    names = await list_names(store, prefix)
    if names:
        await store.delete_async(names)
    return len(names)


def check_md5(announced: str, received: "hashlib._Hash", size: int) -> None:
    """Compare the MD5 of received bytes with the announced one, in hexadecimal.

    Raises:
        DigestMismatchError: names both.
    """
    if received.hexdigest() != announced:
        message = f"{size} bytes arrived whose MD5 is {received.hexdigest()}"
        raise DigestMismatchError(f"{message}; {announced} was announced.")


class VerifiedUpload:
    """Passes chunks on; raises at the limit, or after the last one if the MD5 is another.

    `count` is called with the size of each chunk, and may raise as well.
    """

    def __init__(
        self, chunks: AsyncIterator[bytes], md5: str, limit: int, count: Callable[[int], None]
    ) -> None:
        self._chunks = chunks
        self._count = count
        self._md5 = md5
        self._limit = limit
        self._pull: asyncio.Task[Any] | None = None
        self.size = 0

    async def cancel_pull(self) -> None:
        """Cancel the task in which the object store waits for the next chunk.

        The store pulls each chunk in a task of its own, and does not cancel that task when
        the call that stores is cancelled.
        """
        pull = self._pull
        if pull is not None and pull is not asyncio.current_task() and not pull.done():
            pull.cancel()
            await asyncio.wait((pull,))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = hashlib.md5(usedforsecurity=False)
        self._pull = asyncio.current_task()
        async for chunk in self._chunks:
            self.size += len(chunk)
            if self.size > self._limit:
                message = f"The upload is larger than the {self._limit} bytes that are allowed."
                raise TooLargeError(message, hint="Leave data out of the code directory.")
            self._count(len(chunk))
            received.update(chunk)
            yield chunk
            self._pull = asyncio.current_task()
        check_md5(self._md5, received, self.size)


async def verified_download(chunks: AsyncIterator[bytes], md5: str) -> AsyncIterator[bytes]:
    """The stored bytes; the last chunk is yielded only when the MD5 of all is right.

    Raises:
        DamagedError: before the last chunk, so that the reader receives too few bytes.
    """
    seen = hashlib.md5(usedforsecurity=False)
    held: bytes | None = None
    async for chunk in chunks:
        seen.update(chunk)
        if held is not None:
            yield held
        held = bytes(chunk)
    if seen.hexdigest() != md5:
        raise DamagedError(f"The content {md5} is damaged: its bytes have {seen.hexdigest()}.")
    if held is not None:
        yield held
