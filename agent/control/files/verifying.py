"""Streams that prove, at their end, to be what was promised."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any, Literal

from agent.model.errors import InvalidInputError, ServerError


class DigestMismatchError(InvalidInputError):
    """The bytes that arrived are not those that their name promises."""

    code = "DIGEST_MISMATCH"


class TooLargeError(InvalidInputError):
    """More bytes than the control plane takes."""

    code = "TOO_LARGE"


class DamagedError(ServerError):
    """The bytes in the store are not those that were stored."""

    code = "DAMAGED"


def check_digest(algorithm: str, promised: str, seen: "hashlib._Hash", size: int) -> None:
    """Compare what arrived with what was promised, in hexadecimal.

    Raises:
        DigestMismatchError: tells both.
    """
    if seen.hexdigest() != promised:
        message = f"{size} bytes arrived whose digest is {algorithm}:{seen.hexdigest()}."
        raise DigestMismatchError(f"{message} Promised was {algorithm}:{promised}.")


class Verified:
    """Passes chunks on and raises at their end when they are not what was promised."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        algorithm: Literal["sha256", "md5"],
        hexadecimal: str,
        limit: int,
    ) -> None:
        self._chunks = chunks
        self._algorithm = algorithm
        self._promised = hexadecimal
        self._limit = limit
        self._pull: asyncio.Task[Any] | None = None
        self.size = 0

    async def let_go(self) -> None:
        """End a pull that goes on although nobody wants its chunk any more.

        The store pulls each chunk in a task of its own, and leaves that task to itself when
        the call that stores is cancelled.
        """
        pull = self._pull
        if pull is not None and pull is not asyncio.current_task() and not pull.done():
            pull.cancel()
            await asyncio.wait((pull,))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = hashlib.new(self._algorithm, usedforsecurity=False)
        self._pull = asyncio.current_task()
        async for chunk in self._chunks:
            self.size += len(chunk)
            if self.size > self._limit:
                message = f"The upload is larger than the {self._limit} bytes that are allowed."
                raise TooLargeError(message, hint="Leave data out of the code directory.")
            seen.update(chunk)
            yield chunk
            self._pull = asyncio.current_task()
        check_digest(self._algorithm, self._promised, seen, self.size)


async def undamaged(chunks: AsyncIterator[bytes], md5: str) -> AsyncIterator[bytes]:
    """What is read from the store; the last chunk comes only when all were right.

    Raises:
        DamagedError: before the last chunk, so that the reader misses bytes.
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
