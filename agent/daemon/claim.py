"""The claim loop: free capacity → long poll → attempts.

Which queued items fit is decided by the control plane: `control/services/claims.py`.
"""

import asyncio
import secrets
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from agent.daemon.attempts import Attempts
from agent.daemon.backend_health import BackendHealth
from agent.daemon.capacity import CapacityTracker
from agent.daemon.conditions import FreeDiskCheck
from agent.model.errors import LaunchError
from agent.model.protocol import MAX_CLAIMED, ClaimRequest
from agent.model.work import Claim
from agent.pipeline.attempt import Prepare
from agent.pipeline.until_answered import retry_until_answered
from agent.ports.queue import QueuePort
from agent.system.backoff import Backoff, Sleep
from agent.system.tasks import race

#: Seconds of one long poll.
_WAIT: Final = 25.0
#: Items per reply where the number of jobs is unlimited.
_MAX_ITEMS: Final = 16
_CLAIMS_NOTHING: Final = "its agent claims nothing at the moment"
#: Seconds for releasing the items that an interrupted poll may have claimed.
_RELEASE_TIMEOUT: Final = 2.0


class ClaimLoop:
    """Claims only what can run now, so that no item waits here while another agent is free.

    One long poll is open whenever there is free capacity. Its request id is reused until the server
    has answered it, so that the next poll returns the claims of an interrupted one.
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
        self_scheduled: tuple[str, ...] = (),
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
            self_scheduled=self_scheduled,
        )
        self._sleep = sleep
        self._pending_request_id: str | None = None
        self._failing = False
        self._backoff = Backoff(longest=10.0)

    async def run(self) -> None:
        """Claim and start attempts; never returns."""
        while True:
            await self._capacity.wait_for_slot()
            if self._backends.claimable == ():
                # The poll that was interrupted will not be repeated soon.
                await self.release_claims_of_pending_request()
                await self._backends.wait_changed(())  # until something can be claimed
            await self._disk.wait_for_space()
            await self._start_all(await self._poll())

    async def release_claims_of_pending_request(self) -> None:
        """Release the items that an interrupted poll may have claimed.

        Repeating the request id with no free slots returns the earlier claims and no new ones.
        """
        if self._pending_request_id is None:
            return
        free = replace(self._capacity.free, slots=0)
        request = replace(
            self._request, request_id=self._pending_request_id, free=free, wait_seconds=0.0
        )
        with suppress(LaunchError, TimeoutError):
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                for claim in await self._queue.claim(request):
                    await self._queue.release(claim.lease, _CLAIMS_NOTHING)

    async def _poll(self) -> tuple[Claim, ...]:
        free, claimable = self._capacity.free, self._backends.claimable
        if claimable == ():
            return ()
        self._pending_request_id = self._pending_request_id or secrets.token_hex(12)
        request = replace(
            self._request,
            request_id=self._pending_request_id,
            free=free,
            max_items=_MAX_ITEMS if free.slots is None else min(max(1, free.slots), MAX_CLAIMED),
            wait_seconds=_WAIT,
            resources=claimable,
        )
        # The poll is interrupted when the resources or the free capacity that it was sent with have
        # changed. One more free slot does not interrupt it: the open poll has at least one.
        changes = [self._backends.wait_changed(claimable)]
        if self._capacity.counts_resources:
            changes.append(self._capacity.wait_freed())
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

    async def _start_all(self, claims: tuple[Claim, ...]) -> None:
        """Start what was claimed, a suspect last and alone; release what cannot be started now."""
        if not claims:
            return
        if await self._disk.is_low():
            for claim in claims:
                await self._release(
                    claim, "too little is free on the disk of the agent that got it"
                )
            return
        suspects: list[Claim] = []
        for claim in claims:
            if (reason := self._obstacle(claim)) is not None:
                await self._release(claim, reason)
            elif claim.is_suspect:
                suspects.append(claim)
            else:
                self._attempts.start(claim, Prepare())
        await self._start_alone(suspects)

    def _obstacle(self, claim: Claim) -> str | None:
        """Why the agent cannot start it after all, as it learned while the poll was open."""
        if (failure := self._backends.failures.get(claim.resource)) is not None:
            return failure
        if devices := self._capacity.devices_in_use(claim.allocation):
            log = structlog.get_logger().bind(item=claim.lease.item_id)
            log.error("devices in use were allocated again; the item is released", devices=devices)
            return f"devices in use: {', '.join(devices)}"
        return None

    async def _start_alone(self, suspects: list[Claim]) -> None:
        """Prepare the first suspect while nothing else is being prepared.

        If it kills this process, no lease but its own is lost.
        """
        if not suspects:
            return
        first, *others = suspects
        self._attempts.keep_leases((first,))
        for other in others:
            await self._release(
                other, "agents died while they prepared it, so it is prepared alone"
            )
        await self._attempts.all_prepared()
        log = structlog.get_logger().bind(item=first.lease.item_id)
        log.warning("preparing an item alone, since two leases of it were lost before")
        self._attempts.start(first, Prepare())
        await self._attempts.all_prepared()

    async def _release(self, claim: Claim, reason: str) -> None:
        with suppress(LaunchError):
            await retry_until_answered(
                lambda: self._queue.release(claim.lease, reason),
                "release of an item",
                self._sleep,
            )
