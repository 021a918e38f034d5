"""Hearing at once that a renewal has something to tell."""

from collections.abc import Callable
from typing import Final

from agent.model.errors import LaunchError
from agent.pipeline.retry import Backoff, Sleep
from agent.ports.queue import QueuePort

#: Seconds of one long poll.
_WAIT: Final = 25.0


class CommandLoop:
    """One long poll is always open; whatever it hears of makes the heartbeat come at once.

    The renewal alone says what is to be done. So a poll that is cut, late or refused costs
    promptness and nothing else, and holding one never delays a renewal. An item whose claim
    is still on its way hears of its stop with the next heartbeat.
    """

    def __init__(
        self,
        queue: QueuePort,
        hasten: Callable[[], None],
        *,
        agent_id: str,
        session: str,
        sleep: Sleep,
    ) -> None:
        self._queue = queue
        self._hasten = hasten
        self._agent_id = agent_id
        self._session = session
        self._sleep = sleep

    async def run(self) -> None:
        """Listen for ever."""
        seen: str | None = None
        backoff = Backoff(longest=10.0)
        while True:
            try:
                heard = await self._queue.commands(self._agent_id, self._session, seen, _WAIT)
            except LaunchError:
                # Whether the far end is away is for the heartbeat to say.
                await self._sleep(backoff.pause())
                continue
            backoff.reset()
            if heard != seen:
                seen = heard
                self._hasten()
