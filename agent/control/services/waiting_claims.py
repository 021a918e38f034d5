"""Waiting claims. One task matches them with new items, instead of each claim searching for itself.

The task runs once per notification of a queue, and leases in one transaction what fits, to those
who have waited longest. So an item costs the same however many wait for it, and the slow poll is
one search, not one per claim.
"""

import asyncio
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Final

from agent.control.auth.policy import Principal
from agent.control.services.claims import ClaimResult, claim_now
from agent.control.services.context import Service, ServiceContext, shared_write, urgent_write
from agent.control.services.notifications import (
    Subscription,
    topic_agent,
    topic_claim,
    topic_queue,
)
from agent.control.store import claimable
from agent.control.store.items import ClaimRecord
from agent.control.store.tx import Tx
from agent.model.errors import LaunchError
from agent.model.protocol import ClaimRequest

_MAX_WAIT_SECONDS: Final = 30.0
#: Seconds after which the queues of all that wait are searched without a notification: one from
#: another replica may have been lost.
_SLOW_POLL: Final = 5.0

Claims = tuple[ClaimRecord, ...]


@dataclass(eq=False, slots=True)
class WaitingClaim:
    """One claim that waits."""

    principal: Principal
    request: ClaimRequest
    #: Also woken by what concerns its agent alone.
    subscription: Subscription
    queue_ids: tuple[str, ...]
    #: `ClaimResult.match_key` of its last search.
    match_key: Hashable | None
    arrival: int
    answer: Claims | Exception | None = None

    def give(self, answer: Claims | Exception) -> None:
        """End its wait."""
        self.answer = answer
        self.subscription.notify()


class _QueueSubscription(Subscription):
    """Marks its queue as due for the task when it is notified."""

    def __init__(self, queue_id: str, claims: "WaitingClaims") -> None:
        super().__init__()
        self._queue_id = queue_id
        self._claims = claims

    def notify(self) -> None:
        self._claims.search_soon([self._queue_id])


class WaitingClaims(Service):
    """All claims of this process that wait, by queue and in the order of their arrival."""

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(context)
        self._by_queue: dict[str, dict[WaitingClaim, None]] = {}
        self._subscriptions: dict[str, _QueueSubscription] = {}
        #: Queues to search.
        self._due: set[str] = set()
        self._arrivals = count()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Set while no transaction is under way that may answer one that waits.
        self._idle = asyncio.Event()
        self._idle.set()

    async def claim(self, principal: Principal, request: ClaimRequest) -> Claims:
        """As `Leases.claim`."""
        deadline = monotonic() + min(request.wait_seconds, _MAX_WAIT_SECONDS)
        topics = (topic_agent(request.agent_id), topic_claim(request.agent_id))
        # Subscribed before the first search: what comes for the agent meanwhile is not missed.
        with self._context.notifications.subscribe(topics) as subscription:
            result = await self._claim(principal, request, waited=False)
            if result.claims or monotonic() >= deadline:
                return result.claims
            waiting = WaitingClaim(
                principal,
                request,
                subscription,
                result.queue_ids,
                result.match_key,
                next(self._arrivals),
            )
            self._join(waiting)
            try:
                claims = await self._wait(waiting, deadline)
            finally:
                self._leave(waiting)
            # A match under way may lease something to it; later ones leave it out.
            await self._idle.wait()
        if isinstance(waiting.answer, Exception):
            raise waiting.answer
        return claims or waiting.answer or ()

    async def _wait(self, waiting: WaitingClaim, deadline: float) -> Claims:
        while (left := deadline - monotonic()) > 0:
            if not await waiting.subscription.wait(left):
                break
            # If it was woken by what the match under way has leased to it, the answer comes next.
            await self._idle.wait()
            if waiting.answer is not None:
                break
            # Its agent was asked to stop, was superseded, or got items by the same request.
            result = await self._claim(waiting.principal, waiting.request, waited=True)
            if result.claims:
                return result.claims
        return ()

    @shared_write
    def _claim(
        self, tx: Tx, principal: Principal, request: ClaimRequest, *, waited: bool
    ) -> ClaimResult:
        return claim_now(tx, self._context, principal, request, waited=waited)

    def search_soon(self, queue_ids: Iterable[str]) -> None:
        """Search these queues soon."""
        self._due.update(queue_ids)
        self._woken.set()

    def _join(self, waiting: WaitingClaim) -> None:
        for queue_id in waiting.queue_ids:
            if queue_id not in self._by_queue:
                self._by_queue[queue_id] = {}
                self._subscriptions[queue_id] = subscription = _QueueSubscription(queue_id, self)
                self._context.notifications.add(topic_queue(queue_id), subscription)
            self._by_queue[queue_id][waiting] = None
        # What came between its first search and now.
        self.search_soon(waiting.queue_ids)
        if self._task is None or self._task.done():
            # Not in the context of this request, which may limit what is read.
            searching = self._search_until_none_waits()
            self._task = asyncio.create_task(searching, name="claims", context=Context())

    def _leave(self, waiting: WaitingClaim) -> None:
        for queue_id in waiting.queue_ids:
            self._by_queue[queue_id].pop(waiting, None)
            if not self._by_queue[queue_id]:
                del self._by_queue[queue_id]
                subscription = self._subscriptions.pop(queue_id)
                self._context.notifications.remove(topic_queue(queue_id), subscription)
        if not self._by_queue:
            self._woken.set()

    async def _search_until_none_waits(self) -> None:
        next_poll = monotonic() + _SLOW_POLL
        while self._by_queue:
            with suppress(TimeoutError):
                async with asyncio.timeout(next_poll - monotonic()):
                    await self._woken.wait()
            self._woken.clear()
            if monotonic() >= next_poll:
                self._due.update(self._by_queue)
                next_poll = monotonic() + _SLOW_POLL
            due, self._due = self._due & self._by_queue.keys(), set()
            if due:
                await self._match(sorted(due))

    async def _match(self, queue_ids: Sequence[str]) -> None:
        """Answer those that get something, or the error of the store to all who wait there."""
        found = {one for each in queue_ids for one in self._by_queue[each] if one.answer is None}
        waiting = sorted(found, key=lambda one: one.arrival)
        answers: Mapping[WaitingClaim, Claims | Exception]
        self._idle.clear()
        try:
            answers = await self._lease_first_come(queue_ids, waiting)
        except Exception as error:  # noqa: BLE001 -- each of them raises it
            answers = dict.fromkeys(waiting, error)
        finally:
            self._idle.set()
        for one, answer in answers.items():
            one.give(answer)

    # Urgent: only one runs at a time, and its refusal for overload would fail every waiting claim.
    @urgent_write
    def _lease_first_come(
        self, tx: Tx, queue_ids: Sequence[str], waiting: Sequence[WaitingClaim]
    ) -> dict[WaitingClaim, Claims | LaunchError]:
        answers: dict[WaitingClaim, Claims | LaunchError] = {}
        nothing_fits: set[Hashable | None] = set()
        for one in waiting:
            if one.match_key in nothing_fits:
                continue
            if not claimable.any_claimable(tx, queue_ids):
                break
            try:
                result = claim_now(tx, self._context, one.principal, one.request, waited=True)
            except LaunchError as error:
                answers[one] = error
                continue
            one.match_key = result.match_key
            if result.claims:
                answers[one] = result.claims
            elif result.match_key is not None:
                nothing_fits.add(result.match_key)
        return answers
