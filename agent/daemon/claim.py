"""Free slot → claim → attempt."""

import asyncio
import secrets
import shutil
from collections.abc import Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import structlog

from agent.daemon.attempts import Attempts
from agent.daemon.capacity import Ledger
from agent.daemon.conditions import Conditions
from agent.daemon.engines import EngineWatch
from agent.model.errors import LaunchError
from agent.model.protocol import ClaimRequest, ConditionKind
from agent.model.units import format_size
from agent.model.work import Claim
from agent.pipeline.attempt import Prepare
from agent.pipeline.cancellation import race
from agent.pipeline.retry import Backoff, Sleep
from agent.ports.queue import QueuePort

#: Seconds of one long poll.
_WAIT: Final = 25.0
#: Items in one answer, where slots are unlimited.
_MANY: Final = 16
#: Seconds between looks at a full disk.
_DISK_INTERVAL: Final = 10.0
#: Seconds for handing back what a cut poll may have been given.
_SETTLE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Floor:
    """Free space that must stay on the disk of a folder, in bytes."""

    folder: Path
    free: int
    executor: Executor

    async def seen(self) -> int:
        """Free bytes."""
        loop = asyncio.get_running_loop()
        usage = await loop.run_in_executor(self.executor, shutil.disk_usage, self.folder)
        return usage.free


class ClaimLoop:
    """Takes a slot, then claims: never holds an item that cannot run now.

    One long poll is open whenever something is free. Its request id stays until it was
    answered, so that whatever the far end gave to a poll that was cut comes with the next.
    """

    def __init__(
        self,
        queue: QueuePort,
        attempts: Attempts,
        ledger: Ledger,
        engines: EngineWatch,
        floor: Floor,
        conditions: Conditions,
        *,
        agent_id: str,
        session: str,
        queues: tuple[str, ...],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._attempts = attempts
        self._ledger = ledger
        self._engines = engines
        self._floor = floor
        self._conditions = conditions
        self._request = ClaimRequest(
            agent_id=agent_id, session=session, request_id="", free=ledger.total, queues=queues
        )
        self._sleep = sleep
        self._unanswered: str | None = None
        self._away = False
        self._full = False
        self._backoff = Backoff(longest=10.0)

    async def run(self) -> None:
        """Claim for ever."""
        while True:
            await self._ledger.room()
            await self._engines.one_usable()
            await self._disk_room()
            for claim in await self._poll():
                await self._begin(claim)

    async def settle(self) -> None:
        """After `run` was cancelled: hand back what a cut poll may have been given.

        The same request id with no room brings what was given already, and nothing new.
        """
        if self._unanswered is None:
            return
        nothing = replace(self._ledger.free, slots=0)
        request = replace(
            self._request, request_id=self._unanswered, free=nothing, wait_seconds=0.0
        )
        with suppress(LaunchError, TimeoutError):
            async with asyncio.timeout(_SETTLE):
                for claim in await self._queue.claim(request):
                    await self._queue.release(claim.lease, "the agent leaves")

    async def _poll(self) -> tuple[Claim, ...]:
        free, usable = self._ledger.free, self._engines.usable
        if usable == ():
            return ()
        self._unanswered = self._unanswered or secrets.token_hex(12)
        request = replace(
            self._request,
            request_id=self._unanswered,
            free=free,
            max_items=_MANY if free.slots is None else max(1, free.slots),
            wait_seconds=_WAIT,
            resources=usable,
        )
        try:
            claims = await self._unless_changed(request)
        except LaunchError as error:
            self._say_away(error)
            await self._sleep(self._backoff.pause())
            return ()
        if claims is None:
            return ()
        self._unanswered = None
        self._say_back()
        return claims

    async def _unless_changed(self, request: ClaimRequest) -> tuple[Claim, ...] | None:
        """The poll's answer; `None` when what it asked for is no longer what can be run."""
        return await race(self._queue.claim(request), *self._changes(request))

    def _changes(self, request: ClaimRequest) -> tuple[Coroutine[Any, Any, None], ...]:
        """Another free slot is no reason to ask again: the open poll has room for one."""
        engines = self._engines.changed_from(request.resources)
        return (engines, self._ledger.returned()) if self._ledger.measured else (engines,)

    async def _begin(self, claim: Claim) -> None:
        if claim.resource in self._engines.down:
            # It was given to a poll that was cut because the engine fell silent.
            with suppress(LaunchError):
                await self._queue.release(claim.lease, f"{claim.resource} does not answer")
            return
        twice = self._ledger.conflict(claim.allocation)
        if not twice:
            self._attempts.begin(claim, Prepare())
            return
        log = structlog.get_logger().bind(job=claim.lease.item_id)
        log.error("devices that are in use were granted again; handed back", devices=twice)
        with suppress(LaunchError):
            await self._queue.release(claim.lease, f"devices in use: {', '.join(twice)}")

    async def _disk_room(self) -> None:
        while (seen := await self._floor.seen()) < self._floor.free:
            message = (
                f"{format_size(seen)} are free on the disk of {self._floor.folder}, and "
                f"{format_size(self._floor.free)} must stay free (`min_free_disk`)."
            )
            self._conditions.note(ConditionKind.DISK_LOW, message)
            if not self._full:
                structlog.get_logger().error(
                    "too little free space; nothing is claimed",
                    folder=str(self._floor.folder),
                    free=format_size(seen),
                    floor=format_size(self._floor.free),
                    hint="free some, or lower min_free_disk",
                )
            self._full = True
            await self._sleep(_DISK_INTERVAL)
        self._conditions.lift(ConditionKind.DISK_LOW)
        if self._full:
            structlog.get_logger().info("there is room on the disk again; claiming goes on")
        self._full = False

    def _say_away(self, error: LaunchError) -> None:
        if not self._away:
            structlog.get_logger().warning("cannot claim; trying again", error=str(error))
        self._away = True

    def _say_back(self) -> None:
        self._backoff.reset()
        if self._away:
            structlog.get_logger().info("the control plane answers again")
        self._away = False
