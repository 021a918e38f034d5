"""Blobs over HTTP: what submitters store by digest, and agents read."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp

from agent.model.cause import Cause
from agent.model.errors import JobError, LaunchError, NotFoundError, UnreachableError
from agent.remote.client import GraphQLClient
from agent.remote.failures import UnansweredError, rule_for

#: Uploads and downloads of several GiB; seconds.
_TRANSFER: Final = 3600.0
_SILENCE: Final = 60.0
_PIECE: Final = 256 * 1024
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

    async def read_blob(self, entity: str, digest: str) -> AsyncIterator[bytes]:
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

    async def _read(self, entity: str, digest: str, skip: int) -> AsyncIterator[bytes]:
        path = _path(entity, digest)
        async with self._client.stream("GET", path, silence=_SILENCE) as response:
            try:
                async for piece in response.content.iter_chunked(_PIECE):
                    fresh = piece[skip:]
                    skip = max(0, skip - len(piece))
                    if fresh:
                        yield fresh
            except (aiohttp.ClientError, TimeoutError) as error:
                seen = error or type(error).__name__
                message = f"the transfer broke ({seen})"
                raise UnansweredError(message, rule_for(error)) from error


async def has_blob(client: GraphQLClient, entity: str, digest: str) -> bool:
    """Whether the server holds a blob."""
    try:
        await client.send("HEAD", _path(entity, digest))
    except NotFoundError:
        return False
    return True


async def put_blob(client: GraphQLClient, entity: str, digest: str, file: Path) -> bool:
    """Store a file under its digest (`sha256:<hex>`); false when it was there already.

    Raises:
        InvalidInputError: the content is not what the digest says, or too large.
    """
    if await has_blob(client, entity, digest):
        return False
    await client.send(
        "PUT",
        _path(entity, digest),
        body=lambda: _pieces_of(file),
        headers={
            "Content-Type": "application/octet-stream",
            "Content-Length": str((await asyncio.to_thread(file.stat)).st_size),
        },
        deadline=_TRANSFER,
    )
    return True


async def _pieces_of(file: Path) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    with await loop.run_in_executor(None, file.open, "rb") as stream:
        while piece := await loop.run_in_executor(None, stream.read, _PIECE):
            yield piece


def _path(entity: str, digest: str) -> str:
    return f"/launch/blobs/{entity}/{digest}"
