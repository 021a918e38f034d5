"""The claim loop: free capacity → long poll → attempts."""

import asyncio
import secrets
import shutil
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from agent.daemon.attempts import Attempts
from agent.daemon.backend_health import BackendHealth
from agent.daemon.capacity import CapacityTracker
from agent.daemon.heartbeat import Conditions
from agent.model.errors import LaunchError
from agent.model.protocol import ClaimRequest, ConditionKind
from agent.model.units import format_size
from agent.model.work import Claim
from agent.pipeline.attempt import Prepare
from agent.pipeline.backoff import Backoff, Sleep
from agent.pipeline.cancellation import race
from agent.ports.queue import QueuePort

#: Seconds of one long poll.
_WAIT: Final = 25.0
#: Items per reply where the number of jobs is unlimited.
_MAX_ITEMS: Final = 16
#: Seconds between checks of a full disk.
_DISK_INTERVAL: Final = 10.0
#: Seconds for returning what an interrupted poll may have been given.
_RETURN_TIMEOUT: Final = 2.0


class FreeDiskCheck:
    """Suspends claims while fewer than `minimum` bytes are free on the disk of `folder`."""

    def __init__(
        self,
        folder: Path,
        minimum: int,
        conditions: Conditions,
        executor: Executor,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._folder = folder
        self._minimum = minimum
        self._conditions = conditions
        self._executor = executor
        self._sleep = sleep

    async def wait(self) -> None:
        """Wait until enough is free; until then the condition is reported to the server."""
        while (free := await self.free()) < self._minimum:
            message = (
                f"{format_size(free)} are free on the disk of {self._folder}, and "
                f"{format_size(self._minimum)} must stay free (`min_free_disk`)."
            )
            if self._conditions.set(ConditionKind.DISK_LOW, message):
                structlog.get_logger().error(
                    "too little free disk space; nothing is claimed",
                    folder=str(self._folder),
                    free=format_size(free),
                    minimum=format_size(self._minimum),
                    hint="free some, or lower min_free_disk",
                )
            await self._sleep(_DISK_INTERVAL)
        if self._conditions.clear(ConditionKind.DISK_LOW):
            structlog.get_logger().info("enough disk space is free again; claims resume")

    async def free(self) -> int:
        """Free bytes."""
        loop = asyncio.get_running_loop()
        usage = await loop.run_in_executor(self._executor, shutil.disk_usage, self._folder)
        return usage.free


class ClaimLoop:
    """Claims only what can run now, so that no item waits here while another agent is free.

    One long poll is open whenever there is free capacity. Its request id is reused until it was
    answered, so that the next poll returns what the server gave to an interrupted one.
    """

    def __init__(
        self,
        queue: QueuePort,
        attempts: Attempts,
        capacity: CapacityTracker,
        backends: BackendHealth,
        disk: FreeDiskCheck,
        *,
        agent_id: str,
        session: str,
        queues: tuple[str, ...],
        uncounted: tuple[str, ...] = (),
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._attempts = attempts
        self._capacity = capacity
        self._backends = backends
        self._disk = disk
        self._request = ClaimRequest(
            agent_id=agent_id,
            session=session,
            request_id="",
            free=capacity.total,
            queues=queues,
            uncounted=uncounted,
        )
        self._sleep = sleep
        self._pending_request_id: str | None = None
        self._failing = False
        self._backoff = Backoff(longest=10.0)

    async def run(self) -> None:
        """Claim and start attempts; never returns."""
        while True:
            await self._capacity.wait_for_slot()
            await self._backends.wait_changed(())  # until something can be claimed
            await self._disk.wait()
            for claim in await self._poll():
                await self._start(claim)

    async def release_claims_of_pending_request(self) -> None:
        """After `run` was cancelled: return what an interrupted poll may have been given.

        The same request id without free slots returns what was given to it, and nothing new.
        """
        if self._pending_request_id is None:
            return
        free = replace(self._capacity.free, slots=0)
        request = replace(
            self._request, request_id=self._pending_request_id, free=free, wait_seconds=0.0
        )
        with suppress(LaunchError, TimeoutError):
            async with asyncio.timeout(_RETURN_TIMEOUT):
                for claim in await self._queue.claim(request):
                    await self._queue.release(claim.lease, "the agent shuts down")

    async def _poll(self) -> tuple[Claim, ...]:
        free, claimable = self._capacity.free, self._backends.claimable
        if claimable == ():
            return ()
        self._pending_request_id = self._pending_request_id or secrets.token_hex(12)
        request = replace(
            self._request,
            request_id=self._pending_request_id,
            free=free,
            max_items=_MAX_ITEMS if free.slots is None else max(1, free.slots),
            wait_seconds=_WAIT,
            resources=claimable,
        )
        # The poll is interrupted when what it asked for is not what can run any more. One more
        # free slot is no reason: the open poll has at least one.
        changes = [self._backends.wait_changed(claimable)]
        if self._capacity.counts_resources:
            changes.append(self._capacity.wait_released())
        try:
            claims = await race(self._queue.claim(request), *changes)
        except LaunchError as error:
            if not self._failing:
                structlog.get_logger().warning("claims fail; will be retried", error=str(error))
            self._failing = True
            await self._sleep(self._backoff.pause())
            return ()
        if claims is None:
            return ()
        self._pending_request_id = None
        self._backoff.reset()
        if self._failing:
            structlog.get_logger().info("the control plane answers claims again")
        self._failing = False
        return claims

    async def _start(self, claim: Claim) -> None:
        if claim.resource in self._backends.failures:
            # The server gave it to a poll that was interrupted because the backend failed.
            await self._return(claim, f"{claim.resource} does not answer")
        elif devices := self._capacity.devices_in_use(claim.allocation):
            log = structlog.get_logger().bind(job=claim.lease.item_id)
            log.error("devices in use were allocated again; the item is returned", devices=devices)
            await self._return(claim, f"devices in use: {', '.join(devices)}")
        else:
            self._attempts.start(claim, Prepare())

    async def _return(self, claim: Claim, reason: str) -> None:
        with suppress(LaunchError):
            await self._queue.release(claim.lease, reason)
