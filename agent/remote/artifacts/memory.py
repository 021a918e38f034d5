"""What an agent read of artifacts a moment ago, so that the next job of the same version is quick.

A queue often brings many runs of one version of a job. Versions and contents never change;
that a version was deleted must be heard of all the same, so everything is asked for anew
after a minute. Aliases move, and are never remembered.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from cachetools import TTLCache

from agent.model.job.reference import CodeReference, JobReference
from agent.ports.artifact import Artifact, ArtifactPort

#: Seconds.
_TRUSTED: Final = 60.0
#: Bytes of all files together, and of one that is worth keeping.
_ROOM: Final = 4 * 1024**2
_SMALL: Final = 64 * 1024
#: Files of all remembered versions together.
_ENTRIES: Final = 10_000


class RememberedArtifacts:
    """`ArtifactPort` over another one; `clock` counts seconds."""

    def __init__(self, origin: ArtifactPort, clock: Callable[[], float] = time.monotonic) -> None:
        self._origin = origin
        self._versions: TTLCache[JobReference | CodeReference, Artifact] = TTLCache(
            _ENTRIES, _TRUSTED, clock, getsizeof=lambda artifact: len(artifact.entries) + 1
        )
        self._contents: TTLCache[tuple[str, str], bytes] = TTLCache(
            _ROOM, _TRUSTED, clock, getsizeof=lambda content: len(content) + 1
        )

    async def find(self, reference: JobReference) -> Artifact:
        """See `ArtifactPort`."""
        found = self._versions.get(reference)
        if found is None:
            found = await self._origin.find(reference)
            if reference.version is not None:
                self._remember(reference, found)
        return found

    async def find_code(self, reference: CodeReference) -> Artifact:
        """See `ArtifactPort`."""
        if reference.name is not None:
            return await self.find(reference.name)
        found = self._versions.get(reference)
        if found is None:
            found = await self._origin.find_code(reference)
            self._remember(reference, found)
        return found

    async def read(self, artifact: Artifact, path: str) -> AsyncGenerator[bytes, None]:
        """See `ArtifactPort`."""
        key = artifact.id, path
        known = self._contents.get(key)
        if known is not None:
            yield known
            return
        kept = bytearray()
        small = artifact.entries[path].size <= _SMALL
        async with aclosing(self._origin.read(artifact, path)) as pieces:
            async for piece in pieces:
                if small:
                    kept += piece
                yield piece
        # Only here is it known to be what the digest says.
        if small:
            self._contents[key] = bytes(kept)

    def _remember(self, reference: JobReference | CodeReference, found: Artifact) -> None:
        if len(found.entries) < _ENTRIES:
            self._versions[reference] = found
