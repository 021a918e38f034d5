"""The heartbeat: renews leases, reports conditions, and receives commands to the agent.

The lease statuses of a reply, stops of single jobs among them, are applied in
`agent.daemon.attempts`.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Literal

import structlog

from agent.daemon.attempts import Attempts
from agent.daemon.conditions import Conditions
from agent.model.errors import LaunchError
from agent.model.protocol import Heartbeat
from agent.ports.queue import QueuePort
from agent.system.backoff import Backoff, Sleep
from agent.system.tasks import race

#: Commands about this process as a whole.
AgentCommand = Literal["DRAIN", "STOP", "SUPERSEDED"]

#: Seconds of one long poll for commands.
_COMMAND_WAIT: Final = 25.0


class HeartbeatLoop:
    """Renews all leases every `interval` seconds, and at once on request.

    After a suspend (SIGSTOP, a sleeping machine), the agent renews its leases first; only the
    reply, not the local clock, decides which are still valid.
    """

    def __init__(
        self,
        queue: QueuePort,
        attempts: Attempts,
        conditions: Conditions,
        *,
        agent_id: str,
        session: str,
        interval: float,
        on_command: Callable[[AgentCommand], None],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._attempts = attempts
        self._agent_id = agent_id
        self._session = session
        self._interval = interval
        self._on_command = on_command
        self._sleep = sleep
        self._failing = False
        #: Sent with every heartbeat; a change is sent at once.
        self.conditions = conditions
        self._requested = conditions.changed
        #: Set when agents of the same backend are gone that left started jobs.
        self.adoptable = asyncio.Event()
        #: Set by the service once it claims no more.
        self.draining = False
        #: Monotonic time of the last reply.
        self.answered_at = time.monotonic()

    async def run(self) -> None:
        """Send heartbeats; never returns."""
        backoff = Backoff(first=1.0, longest=self._interval)
        while True:
            # A request during a heartbeat causes another one after it.
            self._requested.clear()
            if await self.send():
                backoff.reset()
                await race(self._requested.wait(), self._sleep(self._interval))
            else:
                await self._sleep(backoff.pause())

    async def watch_commands(self) -> None:
        """Keep a long poll open that returns when the server has a command; never returns.

        The commands themselves come with the heartbeat's reply, which is requested at once. So
        a poll that fails delays a command until the next heartbeat, and an open poll never
        delays a renewal. A stop for an item whose claim has not arrived here yet comes with the
        next heartbeat.
        """
        seen: str | None = None
        backoff = Backoff(longest=10.0)
        while True:
            try:
                mark = await self._queue.commands(
                    self._agent_id, self._session, seen, _COMMAND_WAIT
                )
            except LaunchError:
                # The heartbeat logs that the server is unreachable.
                await self._sleep(backoff.pause())
                continue
            backoff.reset()
            if mark != seen:
                seen = mark
                self._requested.set()

    async def send(self, status: str | None = None) -> bool:
        """Send one heartbeat; false when it was not answered."""
        current = "RUNNING" if len(self._attempts) else "POLLING"
        if self.draining:
            current = "DRAINING"
        heartbeat = Heartbeat(
            self._agent_id,
            self._session,
            status or current,
            self._attempts.leases,
            self.conditions.active,
        )
        try:
            reply = await self._queue.renew(heartbeat)
        except LaunchError as error:
            if not self._failing:
                structlog.get_logger().warning("leases were not renewed", error=str(error))
            self._failing = True
            return False
        if self._failing:
            structlog.get_logger().info("leases are renewed again")
        self._failing = False
        self.answered_at = time.monotonic()
        if not reply.current:
            self._on_command("SUPERSEDED")
            return True
        self._attempts.apply_lease_statuses(reply.statuses)
        if reply.adoptable:
            self.adoptable.set()
        if reply.stop is not None:
            self._on_command(reply.stop)
        return True
