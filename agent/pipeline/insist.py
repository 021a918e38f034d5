"""For ever, with growing pauses: what must arrive at the far end, whenever it is back."""

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

#: Failures of the far end that may pass: it is away, broken, or its administrator is
#: exchanging keys. Anything else would be answered the same way again.
PASSING: Final = (UnreachableError, ServerError, AuthenticationError, PermissionDeniedError)

_FIRST: Final = 0.5
_LONGEST: Final = 15.0


class Backoff:
    """Pauses that double up to a bound, each with a random share; seconds."""

    def __init__(self, first: float = _FIRST, longest: float = _LONGEST) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self) -> float:
        """The next pause."""
        upper, self._next = self._next, min(self._next * 2, self._longest)
        # Chance keeps agents from coming back all at once; it protects no secret.
        return upper * (0.5 + random.random() / 2)  # noqa: S311

    def reset(self) -> None:
        """It worked: begin anew."""
        self._next = self._first


async def insist(
    call: Callable[[], Awaitable[Result]],
    what: str,
    sleep: Sleep,
    passing: tuple[type[LaunchError], ...] = PASSING,
) -> Result:
    """Repeat an idempotent call until it is answered; says once that it waits.

    Raises:
        LaunchError: an answer that would not change.
    """
    backoff = Backoff()
    waiting = False
    while True:
        try:
            result = await call()
        except passing as error:
            if not waiting:
                structlog.get_logger().warning(f"{what}: will be repeated", error=str(error))
            waiting = True
            await sleep(backoff.pause())
        else:
            if waiting:
                structlog.get_logger().info(f"{what}: arrived")
            return result
