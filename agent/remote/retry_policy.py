"""How often and how long failed requests are repeated; `retry_rules` says which may be."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay
from tenacity.wait import wait_random_exponential

from agent.remote.retry_rules import RequestFailedError

_SPREAD: Final = 0.5


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Of one session; seconds."""

    #: Stop retrying after this many seconds, whatever the call's deadline.
    total: float = 3.0
    first_wait: float = 0.1
    longest_wait: float = 5.0
    connect: float = 5.0
    #: Called with every failure that is followed by another try.
    report: Callable[[RequestFailedError], None] | None = None

    def retrying(
        self,
        sleep: Callable[[float], Awaitable[None]],
        *,
        idempotent: bool,
        deadline: float | None = None,
    ) -> AsyncRetrying:
        """Repeats of one call, which end before `deadline`.

        Without a deadline only the time between tries counts: a try may last as long as a large
        file takes.
        """

        def again(error: BaseException) -> bool:
            return isinstance(error, RequestFailedError) and error.rule.allows(
                idempotent=idempotent
            )

        def told(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if self.report is not None and isinstance(error, RequestFailedError):
                self.report(error)

        return AsyncRetrying(
            retry=retry_if_exception(again),
            stop=(
                self._waited_enough
                if deadline is None
                else stop_before_delay(min(deadline, self.total))
            ),
            wait=_Wait(self),
            sleep=sleep,
            before_sleep=told,
            reraise=True,
        )

    def _waited_enough(self, state: RetryCallState) -> bool:
        return state.idle_for + state.upcoming_sleep >= self.total


#: The policy of agents: short, since their own loops call again (`agent.pipeline.until_answered`).
DEFAULT_POLICY: Final = RetryPolicy()


class _Wait:
    """Retry-After plus a random exponential backoff."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._backoff = wait_random_exponential(
            multiplier=policy.first_wait, max=policy.longest_wait
        )

    def __call__(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, RequestFailedError) else None
        # Up to half as long again: those who were refused together do not come back together.
        spread = (asked or 0.0) * (1 + _SPREAD * random.random())  # noqa: S311 -- no secret
        return float(self._backoff(state)) + spread
