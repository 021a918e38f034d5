"""The code-directory source: an archive by digest from the blob store, checked and unpacked."""

import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Executor
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO, Final, cast

from agent.config.execution import CodeConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.spec import CodeSource
from agent.model.units import format_size
from agent.model.work import SourceTree
from agent.ports.log import LogSink, say
from agent.ports.queue import BlobPort
from agent.sources.unpack import Limits, unpack
from agent.system.disk import is_full
from agent.system.threads import in_thread

#: Bytes gathered before a thread writes and hashes them.
_BATCH: Final = 1024 * 1024


class CodeFetcher:
    """`SourcePort` for code directories.

    The archive goes to a file without a name beside `into`: it cannot be left behind.
    """

    def __init__(self, blobs: BlobPort, config: CodeConfig, threads: Executor) -> None:
        self._blobs = blobs
        self._limits = Limits(config.max_size, config.max_files)
        self._threads = threads

    async def fetch(self, source: CodeSource, entity: str, into: Path, log: LogSink) -> SourceTree:
        """See `SourcePort`."""
        if source.size > self._limits.max_bytes:
            raise _invalid(
                source,
                f"it has {format_size(source.size)}, and this agent takes at most "
                f"{format_size(self._limits.max_bytes)} (`sources.code.max_size`)",
            )
        await say(log, f"fetching code '{source.name}' ({format_size(source.size)})")
        with _nameless_file(into.parent) as archive:
            await self._download(source, entity, archive)
            archive.seek(0)
            count = await in_thread(
                self._threads, lambda stop: unpack(archive, into, self._limits, stop)
            )
        await say(log, f"unpacked {count} entries")
        return SourceTree(root=into, identity=f"code@{source.digest}")

    async def _download(self, source: CodeSource, entity: str, archive: BinaryIO) -> None:
        received = _Received(archive, source)
        stream = self._blobs.read_blob(entity, source.digest)
        async with aclosing(stream) as pieces, aclosing(_batches(pieces)) as batches:
            async for batch in batches:
                await in_thread(self._threads, lambda _stop, data=batch: received.take(data))  # type: ignore[misc]
        received.check()


class _Received:
    """Bytes on their way to the disk, hashed as they pass."""

    def __init__(self, archive: BinaryIO, source: CodeSource) -> None:
        self._archive = archive
        self._source = source
        self._hash = hashlib.sha256()
        self._size = 0

    def take(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._source.size:
            raise _invalid(
                self._source, f"it is larger than the {self._source.size} bytes declared"
            )
        self._hash.update(data)
        try:
            self._archive.write(data)
        except OSError as error:
            raise _write_error(error) from None

    def check(self) -> None:
        if self._size < self._source.size:
            raise JobError(
                Cause.SOURCE_UNREACHABLE,
                f"The download of code {self._source.digest} ended after {self._size} of "
                f"{self._source.size} bytes.",
            )
        seen = f"sha256:{self._hash.hexdigest()}"
        if seen != self._source.digest:
            raise _invalid(self._source, f"what was received has the digest {seen}")


async def _batches(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Pieces gathered, so that threads are woken per MiB and not per packet."""
    gathered = bytearray()
    async for piece in pieces:
        gathered += piece
        if len(gathered) >= _BATCH:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _nameless_file(folder: Path) -> BinaryIO:
    try:
        return cast("BinaryIO", tempfile.TemporaryFile(dir=folder))
    except OSError as error:
        raise _write_error(error) from None


def _write_error(error: OSError) -> JobError:
    cause = Cause.DISK_FULL if is_full(error) else Cause.INTERNAL
    reason = os.strerror(error.errno or 0)
    return JobError(cause, f"The code cannot be stored: {reason}.")


def _invalid(source: CodeSource, what: str) -> JobError:
    return JobError(
        Cause.SOURCE_INVALID,
        f"Code '{source.name}' ({source.digest}) cannot be used: {what}.",
        hint="Submit the directory again.",
    )
