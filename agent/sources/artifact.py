"""The source of code artifacts: fetched file by file, checked by digest, cached between jobs.

Each entity has its own cache: MD5 digests can be forged, and a forged one must not bring a file of
one team into a job of another.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from contextlib import aclosing, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from agent.config.execution import CodeConfig
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError, NotFoundError
from agent.model.job.digest import decoded
from agent.model.job.names import parse_code_reference
from agent.model.job.paths import artifact_path
from agent.model.spec import ArtifactSource
from agent.model.tree import is_excluded, leaving_link, walk
from agent.model.units import format_size
from agent.model.work import CodeVersion, SourceTree
from agent.ports.artifact import Artifact, ArtifactEntry, ArtifactPort
from agent.ports.log import LogSink, write_line
from agent.system.cache import FRESH
from agent.system.machine import is_disk_full
from agent.system.tasks import Stop, in_thread, task_group

_AT_ONCE: Final = 8
_BATCH: Final = 1024 * 1024


class ArtifactFetcher:
    """`SourcePort` for code artifacts; `cache` is a folder for file contents only."""

    def __init__(
        self, artifacts: ArtifactPort, config: CodeConfig, cache: Path, threads: Executor
    ) -> None:
        self._artifacts = artifacts
        self._config = config
        self._cache = cache
        self._threads = threads

    async def fetch(
        self, source: ArtifactSource, entity: str, into: Path, log: LogSink
    ) -> SourceTree:
        """See `SourcePort`."""
        try:
            found = await self._artifacts.find_code(parse_code_reference(source.artifact))
        except NotFoundError as error:
            raise JobError(Cause.SOURCE_NOT_FOUND, error.message, hint=error.hint) from None
        except InvalidInputError as error:
            raise JobError(Cause.SOURCE_INVALID, error.message, hint=error.hint) from None
        files = self._checked(found)
        size = format_size(sum(entry.size for entry in files))
        many = "1 file" if len(files) == 1 else f"{len(files)} files"
        await write_line(log, f"fetching code {found.reference} ({many}, {size})")
        cache = self._cache / _folder_name(entity)
        missing = await in_thread(self._threads, lambda stop: _place(files, into, cache, stop))
        await self._all(found, missing, into, cache)
        code = CodeVersion(str(found.reference), digest_of(found))
        return SourceTree(root=into, identity=f"artifact@{found.reference}", code=code)

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """Remove cached contents by last use (age in seconds); returns the bytes freed."""
        return await in_thread(
            self._threads, lambda stop: _prune(self._cache, max_age, max_bytes, stop)
        )

    def _checked(self, found: Artifact) -> tuple[ArtifactEntry, ...]:
        """The files to fetch, without those that W&B's clients exclude from jobs."""
        files = tuple(entry for entry in found.entries.values() if not _is_excluded(entry.path))
        total = sum(entry.size for entry in files)
        config = self._config
        if total > config.max_size:
            allowed = f"{format_size(config.max_size)} (`sources.code.max_size`)"
            raise _invalid(found, f"it has {format_size(total)}, and this agent takes {allowed}")
        if len(files) > config.max_files:
            allowed = f"{config.max_files} (`sources.code.max_files`)"
            raise _invalid(found, f"it has {len(files)} files, and this agent takes {allowed}")
        for entry in files:
            _check_entry(found, entry)
        return files

    async def _all(
        self, found: Artifact, files: Iterable[ArtifactEntry], into: Path, cache: Path
    ) -> None:
        left = iter(files)

        async def some() -> None:
            for entry in left:
                await self._one(found, entry, into / entry.path, cache)

        async with task_group() as tasks:
            # Not a task per file: very many would block the event loop, and lease renewal.
            for _ in range(_AT_ONCE):
                tasks.create_task(some())

    async def _one(self, found: Artifact, entry: ArtifactEntry, target: Path, cache: Path) -> None:
        cached = _cached(cache, entry)
        try:
            await self._download(found, entry, cached)
            await in_thread(self._threads, lambda _: _copy(cached, target))
        except OSError as error:
            raise _write_error(entry, error) from None

    async def _download(self, found: Artifact, entry: ArtifactEntry, cached: Path) -> None:
        """Download into a temporary file, then rename it: the cache has no partial file."""
        descriptor, part = tempfile.mkstemp(dir=cached.parent, prefix="part-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                await self._stream(found, entry, file)
            await in_thread(self._threads, lambda _: shutil.move(part, cached))
        finally:
            await in_thread(self._threads, lambda _: Path(part).unlink(missing_ok=True))

    async def _stream(self, found: Artifact, entry: ArtifactEntry, file: BinaryIO) -> None:
        gathered = bytearray()
        async with aclosing(self._artifacts.read(found, entry.path)) as pieces:
            async for piece in pieces:
                gathered += piece
                if len(gathered) >= _BATCH:
                    data = bytes(gathered)
                    gathered.clear()
                    await in_thread(self._threads, lambda _stop, data=data: file.write(data))  # type: ignore[misc]
        await in_thread(self._threads, lambda _: file.write(gathered))


def digest_of(found: Artifact) -> str:
    """See `CodeVersion.digest`; of all files, also those that are not fetched."""
    total = hashlib.sha256()
    for path, entry in sorted(found.entries.items()):
        total.update(json.dumps([path, entry.digest, entry.size]).encode())
    return total.hexdigest()


def _check_entry(found: Artifact, entry: ArtifactEntry) -> None:
    if entry.reference is not None:
        raise _invalid(found, f"'{entry.path}' is a reference to another store, and is not fetched")
    try:
        shortest = artifact_path(entry.path)
        decoded(entry.digest)
    except InvalidInputError as error:
        raise _invalid(found, error.message.rstrip(".")) from None
    if shortest != entry.path:
        raise _invalid(found, f"the path '{entry.path}' is not in its shortest form")


def _is_excluded(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any(
        is_excluded(part, at_root=depth == 0, directory=depth < len(parts) - 1)
        for depth, part in enumerate(parts)
    )


def _place(
    files: Iterable[ArtifactEntry], into: Path, cache: Path, stop: Stop
) -> list[ArtifactEntry]:
    """Create the folders, and copy the cached files; returns the files to download.

    Nothing else writes below `into`, so that no path leads through a link.
    """
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    missing = []
    for entry in files:
        stop.check()
        target = into / entry.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not _from_cache(_cached(cache, entry), entry.size, target):
                missing.append(entry)
        except OSError as error:
            raise _write_error(entry, error) from None
    return missing


def _cached(cache: Path, entry: ArtifactEntry) -> Path:
    return cache / decoded(entry.digest).hex()


def _from_cache(cached: Path, size: int, target: Path) -> bool:
    """Copy a cached file; false where there is none of that size."""
    try:
        if cached.stat().st_size != size:
            return False
        os.utime(cached)
        _copy(cached, target)
    except FileNotFoundError:
        return False
    return True


def _copy(cached: Path, target: Path) -> None:
    """Not a hard link: the job may write to its files."""
    with cached.open("rb") as source, target.open("xb") as out:
        shutil.copyfileobj(source, out, _BATCH)


def _prune(cache: Path, max_age: float, max_bytes: int, stop: Stop) -> int:
    now = time.time()
    found = sorted(
        (facts.st_mtime, facts.st_size, path)
        for path in cache.glob("*/*")
        for facts in [path.stat()]
    )
    total, freed = sum(size for _, size, _ in found), 0
    for used, size, path in found:
        stop.check()
        idle = now - used
        if idle > FRESH and (0 < max_age < idle or 0 < max_bytes < total - freed):
            path.unlink(missing_ok=True)
            freed += size
    return freed


def _folder_name(entity: str) -> str:
    """A folder name for an entity."""
    return "".join(c if c.isalnum() and c.isascii() else f"_{ord(c):x}_" for c in entity) or "_"


def _write_error(entry: ArtifactEntry, error: OSError) -> JobError:
    if is_disk_full(error):
        return JobError(Cause.DISK_FULL, f"No space is left for the code ({error.strerror}).")
    message = f"'{entry.path}' of the code cannot be written: {error.strerror or error}."
    return JobError(Cause.SOURCE_INVALID, message, hint="Create the job again.")


def _invalid(found: Artifact, what: str) -> JobError:
    message = f"The code artifact {found.reference} cannot be used: {what}."
    return JobError(Cause.SOURCE_INVALID, message, hint="Create the job again.")


class LocalFolder:
    """`SourcePort` for previews: a directory in place of the artifact that it would become.

    `code` stands for the version that it would be.
    """

    def __init__(self, folder: Path, threads: Executor, code: CodeVersion) -> None:
        self._folder = folder
        self._threads = threads
        self._code = code

    async def fetch(
        self, source: ArtifactSource, entity: str, into: Path, log: LogSink
    ) -> SourceTree:
        """See `SourcePort`. Hard links, not copies: a preview changes no file."""
        del source, entity, log
        await in_thread(self._threads, lambda stop: self._link(into, stop))
        return SourceTree(into, f"directory {self._folder.name}", code=self._code)

    def _link(self, into: Path, stop: Stop) -> None:
        for entry in walk(self._folder):
            stop.check()
            target = into / os.path.relpath(entry.path, self._folder)
            if entry.is_dir(follow_symlinks=False):
                target.mkdir()
            elif entry.is_symlink():
                self._same_link(Path(entry), target)
            else:
                _same_file(Path(entry), target)

    def _same_link(self, link: Path, target: Path) -> None:
        if leaving_link(self._folder, link) is None:
            target.symlink_to(link.readlink())


def _same_file(file: Path, target: Path) -> None:
    with suppress(OSError):  # on another file system
        target.hardlink_to(file)
        return
    shutil.copy2(file, target)
