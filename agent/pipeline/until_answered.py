"""Unlimited retries of calls that must reach the control plane."""

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
from agent.system.backoff import Backoff, Sleep

Result = TypeVar("Result")

#: The server is unreachable or broken, or its administrator is exchanging keys. Any other
#: error would be the answer to a repeated call as well.
TRANSIENT: Final = (UnreachableError, ServerError, AuthenticationError, PermissionDeniedError)


async def retry_until_answered(
    call: Callable[[], Awaitable[Result]],
    what: str,
    sleep: Sleep,
    transient: tuple[type[LaunchError], ...] = TRANSIENT,
    max_failures: int | None = None,
) -> Result:
    """Repeat an idempotent call until it is answered; the first failure is logged.

    `max_failures`: after so many answers that are failures of the server's own the last one is
    raised. A server that cannot be reached is waited for without limit.

    Raises:
        LaunchError: an error that is not among `transient`, or the last of `max_failures`.
    """
    backoff = Backoff()
    waiting, failures = False, 0
    while True:
        try:
            result = await call()
        except transient as error:
            failures += not isinstance(error, UnreachableError)
            if failures == max_failures:
                raise
            if not waiting:
                structlog.get_logger().warning(f"{what}: will be retried", error=str(error))
            waiting = True
            await sleep(backoff.pause())
        else:
            if waiting:
                structlog.get_logger().info(f"{what}: succeeded after retries")
            return result
