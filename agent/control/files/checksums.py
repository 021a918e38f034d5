"""Streams whose MD5 is checked while they pass."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from agent.model.errors import InvalidInputError, ServerError


class DigestMismatchError(InvalidInputError):
    """The bytes that arrived do not have the announced MD5."""

    code = "DIGEST_MISMATCH"


class TooLargeError(InvalidInputError):
    """More bytes than the control plane accepts."""

    code = "TOO_LARGE"


class DamagedError(ServerError):
    """The bytes in the object store are not those that were stored."""

    code = "DAMAGED"


def check_md5(announced: str, received: "hashlib._Hash", size: int) -> None:
    """Compare the MD5 of received bytes with the announced one, in hexadecimal.

    Raises:
        DigestMismatchError: names both.
    """
    if received.hexdigest() != announced:
        message = f"{size} bytes arrived whose MD5 is {received.hexdigest()}"
        raise DigestMismatchError(f"{message}; {announced} was announced.")


class VerifiedUpload:
    """Passes chunks on and raises behind the last one when size or MD5 is not as announced."""

    def __init__(self, chunks: AsyncIterator[bytes], md5: str, limit: int) -> None:
        self._chunks = chunks
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
