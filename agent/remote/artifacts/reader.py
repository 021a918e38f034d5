"""Reads artifacts for the agent by the operations of W&B's clients: `ArtifactPort`.

The same documents work against W&B's servers and ours. Contents come from signed URLs.
"""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from cachetools import TTLCache

from agent.model.cause import Cause
from agent.model.errors import (
    ConflictError,
    InvalidInputError,
    JobError,
    NotFoundError,
    PermissionDeniedError,
    UnreachableError,
)
from agent.model.job.names import CodeReference, JobReference
from agent.ports.artifact import Artifact, ArtifactEntry, ArtifactPort
from agent.remote.artifacts.transfers import Transfers
from agent.remote.artifacts.versions import ArtifactVersions, Json, metadata_of, reference_of
from agent.remote.client import ControlPlaneClient
from agent.remote.retry_rules import RequestFailedError, Retry, RetryRule

_CUT: Final = RetryRule(Retry.IF_IDEMPOTENT, "the response was cut")
#: A download that breaks is continued so often without getting further; seconds between.
_TRIES: Final = 4
_PAUSE: Final = 1.0
#: Artifacts whose file URLs are kept.
_MAX_ARTIFACTS_WITH_URLS: Final = 16

#: Seconds that versions and contents are cached.
_CACHE_TIME: Final = 60.0
#: Bytes of all cached files, and of one that is cached.
_CACHE_SIZE: Final = 4 * 1024**2
_MAX_CACHED_FILE_BYTES: Final = 64 * 1024
#: Files of all cached versions.
_MAX_CACHED_ENTRIES: Final = 10_000


class RemoteArtifacts:
    """`ArtifactPort` over one client."""

    def __init__(
        self,
        client: ControlPlaneClient,
        transfers: Transfers,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._versions = ArtifactVersions(client, transfers)
        self._transfers = transfers
        self._sleep = sleep
        #: URLs of files by artifact; asked for once, and again when one has expired.
        self._urls: dict[str, Mapping[str, str]] = {}
        #: Held while asking: many files are read at a time, and one reply serves them all.
        self._asking = asyncio.Lock()

    async def find(self, reference: JobReference) -> Artifact:
        """See `ArtifactPort`; the error suggests similar names."""
        found = (await self._versions.version_of_any_type(reference) or {}).get("artifact")
        if not found:
            raise await self._versions.missing(reference)
        version = replace(reference, alias=f"v{found['versionIndex']}")
        return await self._with_manifest(found, version)

    async def find_code(self, reference: CodeReference) -> Artifact:
        """See `ArtifactPort`."""
        if reference.name is not None:
            return await self.find(reference.name)
        found = await self._versions.by_id(str(reference.id))
        if not found or found.get("state") == "DELETED":
            message = f"The code artifact {reference} is not on the server: it was deleted."
            raise NotFoundError(message, hint="Create the job again.")
        return await self._with_manifest(found, reference_of(found))

    async def read(self, artifact: Artifact, path: str) -> AsyncGenerator[bytes, None]:
        """See `ArtifactPort`. Pieces are verified only once the stream ended without error."""
        entry = artifact.entries[path]
        digest, received = hashlib.md5(usedforsecurity=False), 0
        tries = _TRIES
        while True:
            urls: Mapping[str, str] | None = None
            before = received
            try:
                urls = await self._urls_of(artifact)
                async with aclosing(self._rest(artifact, entry, received, urls)) as pieces:
                    async for piece in pieces:
                        digest.update(piece)
                        received += len(piece)
                        yield piece
                break
            except (UnreachableError, PermissionDeniedError):
                # A refused URL may have expired: an agent runs for weeks.
                tries = _TRIES if received > before else tries - 1
                if not tries:
                    raise
                if self._urls.get(artifact.id) is urls:
                    self._urls.pop(artifact.id, None)
                await self._sleep(_PAUSE)
            except (NotFoundError, InvalidInputError, ConflictError) as error:
                message = f"The artifact's file '{path}' could not be read: {error.message}"
                raise JobError(Cause.SOURCE_NOT_FOUND, message) from error
        seen = base64.b64encode(digest.digest()).decode()
        if seen != entry.digest:
            message = f"'{path}' has the digest {seen}, and is recorded as {entry.digest}."
            raise JobError(Cause.SOURCE_INVALID, message, hint="Create the job again.")

    async def _rest(
        self, artifact: Artifact, entry: ArtifactEntry, skip: int, urls: Mapping[str, str]
    ) -> AsyncGenerator[bytes, None]:
        """The content without its first `skip` bytes."""
        if entry.path not in urls:
            message = f"The server has no file '{entry.path}' of {artifact.reference}."
            raise JobError(Cause.SOURCE_NOT_FOUND, message, hint="Create the job again.")
        received = 0
        async with aclosing(self._transfers.stream(urls[entry.path])) as pieces:
            async for piece in pieces:
                received += len(piece)
                if received > entry.size:
                    message = f"'{entry.path}' is longer than the {entry.size} bytes recorded."
                    raise JobError(Cause.SOURCE_INVALID, message)
                rest, skip = piece[skip:], max(0, skip - len(piece))
                if rest:
                    yield rest
        if received < entry.size:
            message = f"'{entry.path}' ended after {received} of its {entry.size} bytes"
            raise RequestFailedError(message, _CUT)

    async def _urls_of(self, artifact: Artifact) -> Mapping[str, str]:
        async with self._asking:
            known = self._urls.get(artifact.id)
            if known is None:
                known = await self._versions.file_urls(artifact.reference)
                while len(self._urls) >= _MAX_ARTIFACTS_WITH_URLS:
                    self._urls.pop(next(iter(self._urls)))
                self._urls[artifact.id] = known
        return known

    async def _with_manifest(self, found: Json, version: JobReference) -> Artifact:
        entries = await self._versions.entries(found["id"])
        if entries is None:
            raise NotFoundError(f"{version} has no files.", hint="Create the job again.")
        kind = str((found.get("artifactType") or {}).get("name"))
        return Artifact(str(found["id"]), version, kind, entries, metadata_of(found))


class CachedArtifacts:
    """`ArtifactPort` over another one, for many runs of one job in short succession.

    Versions and contents never change, but a version may be deleted, so they are asked for
    again after a minute. Aliases move, and are never cached. `clock` counts seconds.
    """

    def __init__(self, origin: ArtifactPort, clock: Callable[[], float] = time.monotonic) -> None:
        self._origin = origin
        self._versions: TTLCache[JobReference | CodeReference, Artifact] = TTLCache(
            _MAX_CACHED_ENTRIES,
            _CACHE_TIME,
            clock,
            getsizeof=lambda artifact: len(artifact.entries) + 1,
        )
        self._contents: TTLCache[tuple[str, str], bytes] = TTLCache(
            _CACHE_SIZE, _CACHE_TIME, clock, getsizeof=lambda content: len(content) + 1
        )

    async def find(self, reference: JobReference) -> Artifact:
        """See `ArtifactPort`."""
        found = self._versions.get(reference)
        if found is None:
            found = await self._origin.find(reference)
            if reference.version is not None:
                self._keep(reference, found)
        return found

    async def find_code(self, reference: CodeReference) -> Artifact:
        """See `ArtifactPort`."""
        if reference.name is not None:
            return await self.find(reference.name)
        found = self._versions.get(reference)
        if found is None:
            found = await self._origin.find_code(reference)
            self._keep(reference, found)
        return found

    async def read(self, artifact: Artifact, path: str) -> AsyncGenerator[bytes, None]:
        """See `ArtifactPort`."""
        key = artifact.id, path
        known = self._contents.get(key)
        if known is not None:
            yield known
            return
        content = bytearray()
        small = artifact.entries[path].size <= _MAX_CACHED_FILE_BYTES
        async with aclosing(self._origin.read(artifact, path)) as pieces:
            async for piece in pieces:
                if small:
                    content += piece
                yield piece
        # The digest was compared at the end of the stream.
        if small:
            self._contents[key] = bytes(content)

    def _keep(self, reference: JobReference | CodeReference, found: Artifact) -> None:
        if len(found.entries) < _MAX_CACHED_ENTRIES:
            self._versions[reference] = found
