"""Blobs over HTTP: archives that submitters stored by digest, read by agents."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError, LaunchError, NotFoundError, UnreachableError
from agent.remote.client import GraphQLClient, pieces_of

#: Seconds without a byte.
_SILENCE: Final = 60.0
_TRIES: Final = 4


class RemoteBlobs:
    """`BlobPort` over one client."""

    def __init__(
        self,
        client: GraphQLClient,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._sleep = sleep

    async def read_blob(self, entity: str, digest: str) -> AsyncGenerator[bytes, None]:
        """Stream a blob; a cut connection is taken up again, since content never changes."""
        sent = 0
        for remaining in reversed(range(_TRIES)):
            try:
                async for piece in self._read(entity, digest, sent):
                    sent += len(piece)
                    yield piece
            except NotFoundError as error:
                message = f"The code {digest} of {entity} is not on the server."
                raise JobError(
                    Cause.SOURCE_NOT_FOUND, message, hint="Submit the directory again."
                ) from error
            except UnreachableError as error:
                if not remaining:
                    message = f"The code {digest} could not be read: {error.message}"
                    raise JobError(Cause.SOURCE_UNREACHABLE, message) from error
                await self._sleep(1.0)
            except LaunchError as error:
                message = f"The code {digest} could not be read: {error}"
                raise JobError(Cause.SOURCE_UNREACHABLE, message) from error
            else:
                return

    async def _read(self, entity: str, digest: str, skip: int) -> AsyncGenerator[bytes, None]:
        path = _path(entity, digest)
        async with self._client.stream("GET", path, silence=_SILENCE) as response:
            async for piece in pieces_of(response):
                fresh, skip = piece[skip:], max(0, skip - len(piece))
                if fresh:
                    yield fresh


def _path(entity: str, digest: str) -> str:
    return f"/launch/blobs/{entity}/{digest}"
