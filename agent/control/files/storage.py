"""The object store below contents, run files and logs: a local folder."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore

from agent.model.errors import ServerError

#: The name of an object that is still being written by a local store: `<name>#<number>`.
_STAGED = re.compile(r".#\d+$")


class StorageFullError(ServerError):
    """No space is left in the object store."""

    code = "STORAGE_FULL"


async def open_folder(root: Path) -> ObjectStore:
    """Open a folder as an object store; incomplete objects of a killed process are deleted.

    Only one control plane may use a folder: it would delete what another one is writing.
    """
    await asyncio.to_thread(_prepare, root)
    return LocalStore(str(root), mkdir=True, automatic_cleanup=True)


def _prepare(root: Path) -> None:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in _staged(root):
        path.unlink(missing_ok=True)


def _staged(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*#*") if _STAGED.search(path.name) and path.is_file())


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


async def names_below(store: ObjectStore, prefix: str) -> list[str]:
    """Full names of all objects below a prefix, in no particular order."""
    found: list[str] = []
    async for batch in store.list(prefix):
        found.extend(meta["path"] for meta in batch)
    return found


async def delete_below(store: ObjectStore, prefix: str) -> int:
    """Delete all objects below a prefix; returns how many there were."""
    names = await names_below(store, prefix)
    if names:
        await store.delete_async(names)
    return len(names)
