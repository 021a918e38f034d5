"""All attempts of this process, as tasks by item."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from agent.daemon.capacity import Ledger
from agent.model.cause import Cause
from agent.model.errors import LaunchError
from agent.model.names import workload_name
from agent.model.outcome import Refused
from agent.model.protocol import LeaseStatus
from agent.model.work import Claim, Lease
from agent.pipeline.attempt import Begin, run_attempt
from agent.pipeline.cancellation import CANCEL_REASONS, Cancellation, CancelReason
from agent.pipeline.dependencies import AttemptContext, Backend, Dependencies
from agent.pipeline.report import Report
from agent.pipeline.retry import retry_until_answered


@dataclass(frozen=True, slots=True)
class _Under:
    """One attempt under way."""

    claim: Claim
    cancellation: Cancellation
    task: asyncio.Task[None]


class Attempts:
    """Begins attempts, hands cancellation to them, and knows when none is left."""

    def __init__(self, dependencies: Dependencies, ledger: Ledger) -> None:
        self._dependencies = dependencies
        self._ledger = ledger
        self._under: dict[str, _Under] = {}
        #: Held, and not decided about yet: their leases want to be renewed all the same.
        self._undecided: dict[str, Lease] = {}
        self._ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._under)

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All that has to be renewed."""
        under = {item: one.claim.lease for item, one in self._under.items()}
        return tuple((self._undecided | under).values())

    @property
    def names(self) -> frozenset[str]:
        """Of the workloads and folders that are in use here."""
        return frozenset(self._name(one.claim.lease) for one in self._under.values())

    def hold(self, claims: tuple[Claim, ...]) -> None:
        """Renew these until each is begun."""
        self._undecided |= {claim.lease.item_id: claim.lease for claim in claims}

    def begin(self, claim: Claim, begin: Begin) -> None:
        """Begin one attempt; what it needs counts as taken from here on."""
        lease = claim.lease
        self._undecided.pop(lease.item_id, None)
        self._ledger.take(lease, claim.allocation)
        cancellation = Cancellation()
        if claim.stop_requested:
            cancellation.send(CancelReason.STOP)
        before = self._under.get(lease.item_id)
        work = self._work(claim, begin, cancellation, before)
        task = asyncio.create_task(work, name=f"attempt-{lease.item_id}")
        self._under[lease.item_id] = _Under(claim, cancellation, task)
        task.add_done_callback(lambda done: self._over(lease, done))

    def deliver(self, answers: Mapping[str, LeaseStatus]) -> None:
        """What the queue answered to the renewal."""
        for item, answer in answers.items():
            one, reason = self._under.get(item), CANCEL_REASONS.get(answer)
            if reason is CancelReason.FENCED:
                self._undecided.pop(item, None)
            if one is not None and reason is not None:
                one.cancellation.send(reason)

    def cancel_all(self, cause: CancelReason) -> None:
        """Recall every attempt."""
        for one in self._under.values():
            one.cancellation.send(cause)

    async def all_ended(self) -> None:
        """Wait until none is left."""
        while self._under:
            self._ended.clear()
            await self._ended.wait()

    async def cancel(self) -> None:
        """Leave at once; what runs goes on."""
        tasks = [one.task for one in self._under.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _work(
        self, claim: Claim, begin: Begin, cancellation: Cancellation, before: _Under | None
    ) -> None:
        if before is not None:
            # 1. This process slept past its lease. 2. The item went back to its queue.
            # 3. We claimed it anew before a renewal told the first attempt that it is
            # fenced. Both would use one workload name, so the first ends first.
            before.cancellation.send(CancelReason.FENCED)
            await asyncio.wait({before.task})
        backend = self._dependencies.backends.get(claim.resource)
        if backend is None:
            await self._refuse(claim)
        else:
            await run_attempt(self._job(claim, backend, cancellation), begin)

    def _job(self, claim: Claim, backend: Backend, cancellation: Cancellation) -> AttemptContext:
        dependencies, lease = self._dependencies, claim.lease
        name = self._name(lease)
        report = Report(
            dependencies.queue, lease, cancellation, dependencies.journal, dependencies.sleep
        )
        return AttemptContext(
            claim=claim,
            name=name,
            backend=backend,
            dependencies=dependencies,
            cancellation=cancellation,
            report=report,
            folder=dependencies.attempts_dir / name,
            free=lambda: self._ledger.give_back(lease),
        )

    def _name(self, lease: Lease) -> str:
        return workload_name(self._dependencies.control_plane_id, lease.item_id, lease.attempt)

    async def _refuse(self, claim: Claim) -> None:
        served = ", ".join(sorted(self._dependencies.backends)) or "nothing"
        message = f"This agent serves {served}, and the job needs {claim.resource}."
        outcome = Refused(Cause.POLICY_RESOURCE, message)
        queue = self._dependencies.queue
        try:
            await retry_until_answered(
                lambda: queue.finish(claim.lease, outcome, {}), "refusal", self._dependencies.sleep
            )
        except LaunchError as error:
            structlog.get_logger().warning("a refusal was refused", error=str(error))

    def _over(self, lease: Lease, task: asyncio.Task[Any]) -> None:
        one = self._under.get(lease.item_id)
        if one is not None and one.task is task:
            del self._under[lease.item_id]
        self._ledger.give_back(lease)
        self._ended.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log = structlog.get_logger().bind(job=lease.item_id)
            log.error("an attempt's task failed", exc_info=error)
