"""Exponential backoff, and unlimited retries of calls that must reach the control plane."""

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from agent.model.errors import (
    AuthenticationError,
    LaunchError,
    PermissionDeniedError,
    ServerError,
    UnreachableError,
)

Result = TypeVar("Result")
Sleep = Callable[[float], Awaitable[None]]

#: The server is unreachable or broken, or its administrator is exchanging keys. Any other
#: error would be the answer to a repeated call as well.
TRANSIENT: Final = (UnreachableError, ServerError, AuthenticationError, PermissionDeniedError)

_FIRST: Final = 0.5
_LONGEST: Final = 15.0


class Backoff:
    """Exponential pauses up to a limit, with jitter; seconds."""

    def __init__(self, first: float = _FIRST, longest: float = _LONGEST) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self) -> float:
        """The next pause."""
        upper, self._next = self._next, min(self._next * 2, self._longest)
        # Jitter keeps agents from retrying all at once; it needs no secure randomness.
        return upper * (0.5 + random.random() / 2)  # noqa: S311

    def reset(self) -> None:
        """Start over after a success."""
        self._next = self._first


async def retry_until_answered(
    call: Callable[[], Awaitable[Result]],
    what: str,
    sleep: Sleep,
    transient: tuple[type[LaunchError], ...] = TRANSIENT,
    most_failures: int | None = None,
) -> Result:
    """Repeat an idempotent call until it is answered; the first failure is logged.

    `most_failures`: so many answers that are failures of the server's own are enough. One that
    cannot be reached is waited for without limit.

    Raises:
        LaunchError: an error that is not among `transient`, or the last of `most_failures`.
    """
    backoff = Backoff()
    waiting, failures = False, 0
    while True:
        try:
            result = await call()
        except transient as error:
            failures += not isinstance(error, UnreachableError)
            if failures == most_failures:
                raise
            if not waiting:
                structlog.get_logger().warning(f"{what}: will be retried", error=str(error))
            waiting = True
            await sleep(backoff.pause())
        else:
            if waiting:
                structlog.get_logger().info(f"{what}: succeeded after retries")
            return result
