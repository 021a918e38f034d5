"""Agent liveness, lease renewal, stop requests, what is wrong here."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal

import structlog

from agent.daemon.attempts import Attempts
from agent.daemon.conditions import Conditions
from agent.model.errors import LaunchError
from agent.model.protocol import Heartbeat, HeartbeatReply
from agent.pipeline.cancellation import race
from agent.pipeline.retry import Backoff, Sleep
from agent.ports.queue import QueuePort

Commands = Callable[[Literal["DRAIN", "STOP", "SUPERSEDED"]], None]


class HeartbeatLoop:
    """One call every `interval` seconds renews everything, and one at once when hastened.

    After a sleep of the whole process (SIGSTOP, a suspended machine) the first thing that
    happens is a renewal; its answers, not the clock here, say what is still ours.
    """

    def __init__(
        self,
        queue: QueuePort,
        attempts: Attempts,
        *,
        agent_id: str,
        session: str,
        interval: float,
        commands: Commands,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._attempts = attempts
        self._agent_id = agent_id
        self._session = session
        self._interval = interval
        self._commands = commands
        self._sleep = sleep
        self._away = False
        self._hastened = asyncio.Event()
        #: Told with every beat; a change is told at once.
        self.conditions = Conditions(self.hasten)
        #: Set by the service once it claims no more.
        self.draining = False
        #: Monotonic time of the last answer.
        self.answered_at = time.monotonic()

    async def run(self) -> None:
        """Heartbeat for ever."""
        backoff = Backoff(first=1.0, longest=self._interval)
        while True:
            self._hastened.clear()
            if await self.beat():
                backoff.reset()
                await race(self._hastened.wait(), self._sleep(self._interval))
            else:
                await self._sleep(backoff.pause())

    def hasten(self) -> None:
        """Heartbeat at once; while a beat is under way, once more after it."""
        self._hastened.set()

    async def beat(self, status: str | None = None) -> bool:
        """One beat; false when it was not answered."""
        beat = Heartbeat(
            self._agent_id,
            self._session,
            status or self._status(),
            self._attempts.leases,
            self.conditions.now,
        )
        try:
            answer = await self._queue.renew(beat)
        except LaunchError as error:
            self._say_away(error)
            return False
        self._say_back()
        self.answered_at = time.monotonic()
        self._obey(answer)
        return True

    def _obey(self, answer: HeartbeatReply) -> None:
        if not answer.current:
            self._commands("SUPERSEDED")
            return
        self._attempts.deliver(answer.answers)
        if answer.stop is not None:
            self._commands(answer.stop)

    def _status(self) -> str:
        if self.draining:
            return "DRAINING"
        return "RUNNING" if len(self._attempts) else "POLLING"

    def _say_away(self, error: LaunchError) -> None:
        if not self._away:
            structlog.get_logger().warning("leases were not renewed", error=str(error))
        self._away = True

    def _say_back(self) -> None:
        if self._away:
            structlog.get_logger().info("leases are renewed again")
        self._away = False
