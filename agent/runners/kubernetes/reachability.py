"""Whether the API server answers, shared by all callers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from agent.system.backoff import Backoff, Sleep

#: Seconds; the longest is short enough to notice the server's return within a few seconds.
_FIRST_PAUSE: Final = 0.5
_MAX_PAUSE_SECONDS: Final = 5.0


class Reachability:
    """While the API server does not answer, one caller at a time asks it; the others wait.

    However many jobs there are, an unreachable server gets one small request in each pause.
    `probe` tells whether it answers; it does not raise.
    """

    def __init__(self, probe: Callable[[], Awaitable[bool]], sleep: Sleep) -> None:
        self._probe = probe
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._backoff = Backoff(_FIRST_PAUSE, _MAX_PAUSE_SECONDS)
        #: Why it is thought not to answer; empty while it answers.
        self.failure = ""

    def lost(self, failure: str) -> None:
        """Note that a request failed in a way that concerns the others, too."""
        self.failure = failure

    async def wait(self) -> None:
        """Wait until it answers; at once, unless `lost` was called since it last did."""
        while self.failure:
            async with self._turn:
                if not self.failure:
                    return
                if await self._probe():
                    self.failure = ""
                    self._backoff.reset()
                else:
                    await self._sleep(self._backoff.pause())
