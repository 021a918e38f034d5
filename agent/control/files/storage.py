"""The object store of contents, run files, logs and streams; checks the MD5 of uploaded bytes."""

import asyncio
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from obstore.exceptions import (
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, ObjectStore, from_url

from agent.config.control import ControlConfig, ObjectStoreConfig
from agent.model.errors import (
    ConfigError,
    ConflictError,
    InvalidInputError,
    ServerError,
    TooLargeError,
    UnreachableError,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

#: The first parts of all names.
FOLDERS: Final = ("contents", "logs", "run-files", "run-streams")
#: Bytes that one request reads.
_READ_SIZE: Final = 1024 * 1024
#: Of requests that failed on the way or were answered with 5xx: for about five seconds. Clients
#: repeat what failed by then.
_RETRIES: Final["RetryConfig"] = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=5),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2)},
}
_STATUS: Final = re.compile(r"status code: (\d{3})")
_NOT_FOUND: Final = 404
_REFUSALS: Final = (401, 403)
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


@asynccontextmanager
async def open_store(config: ControlConfig) -> AsyncIterator[ObjectStore]:
    """The configured object store, after a trial of writing and listing; else the data folder.

    Raises:
        ConfigError: the bucket does not exist, or the key is refused.
        UnreachableError: the server does not answer.
        ConflictError: another process uses the data folder.
    """
    if config.object_store.url is None:
        with _owned(config.data_dir):
            yield await open_folder(config.data_dir)
        return
    store = _remote(config.object_store)
    await _try_out(store, config.object_store.url)
    yield store


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
def _owned(root: Path) -> Iterator[None]:
    """Hold the lock of a data folder; the kernel releases it when the process ends."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(root / "files.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"The data folder {root} cannot be used: {error.strerror or error}."
        hint = "Name another one by `control.data_dir`."
        raise ConfigError(message, hint=hint) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"The files in {root} are in use by another control plane."
            hint = "Several replicas need an object store: `control.object_store`."
            raise ConflictError(message, hint=hint) from None
        yield
    finally:
        os.close(lock)


def _remote(config: ObjectStoreConfig) -> ObjectStore:
    url = config.url or ""
    client: ClientConfig = {"connect_timeout": "5s", "timeout": "60s"}
    if not url.startswith("s3:"):
        return from_url(url, client_options=client, retry_config=_RETRIES)
    options: S3Config = {}
    if config.endpoint is not None:
        options["endpoint"] = config.endpoint
        client["allow_http"] = config.endpoint.startswith("http:")
    if config.region is not None:
        options["region"] = config.region
    if config.key is not None:
        key, _, secret = config.key.get_secret_value().partition(":")
        options["access_key_id"], options["secret_access_key"] = key, secret
    return from_url(url, config=options, client_options=client, retry_config=_RETRIES)


async def _try_out(store: ObjectStore, url: str) -> None:
    name = f"startup/{secrets.token_hex(8)}"
    try:
        # Listing first: some servers make a missing bucket when they store an object.
        await list_names(store, "startup/")
        await store.put_async(name, b"launch server")
        await store.delete_async(name)
    except (BaseError, OSError) as error:
        if _status(error) == _NOT_FOUND:
            message = f"The object store {url} does not exist: make the bucket."
            raise ConfigError(message, hint="It is `control.object_store.url`.") from error
        if _refused(error):
            message = f"The object store {url} refuses the key: {_first_line(error)}"
            raise ConfigError(message, hint="Check `control.object_store.key`.") from error
        message = f"The object store {url} does not answer: {_first_line(error)}"
        raise UnreachableError(message, hint="Check `control.object_store`.") from error


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
        if "No space left" in str(error) or "os error 28" in str(error):
            message = f"{what}: the disk of the control plane is full."
            raise StorageFullError(message, hint="Free space in its data folder.") from error
        reason = "refuses the key" if _refused(error) else "failed"
        raise ServerError(f"{what}: the store {reason}: {_first_line(error)}") from error


def _refused(error: Exception) -> bool:
    """Also a signature that is wrong, or a key that is not known: AWS answers 403 to both."""
    kinds = PermissionDeniedError | UnauthenticatedError | PermissionError
    return isinstance(error, kinds) or _status(error) in _REFUSALS


def _status(error: Exception) -> int | None:
    """Of the response; only the text of an error of a list request has it."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


async def read_range(
    store: ObjectStore, name: str, start: int, end: int, what: str
) -> AsyncIterator[bytes]:
    """Bytes `start` (inclusive) to `end` (exclusive) of an object, by requests of bounded size.

    One request for all would last as long as a slow client takes, and be ended by its time limit.
    """
    while start < end:
        stop = min(end, start + _READ_SIZE)
        with storage_errors(what):
            piece = bytes(await store.get_range_async(name, start=start, end=stop))
        yield piece
        start += len(piece)


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
