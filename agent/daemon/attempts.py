"""The attempts of this process: one task each, by item."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from cachetools import LRUCache

from agent.daemon.capacity import CapacityTracker
from agent.model.capacity import Allocation
from agent.model.cause import Cause
from agent.model.errors import LaunchError
from agent.model.phase import Refused
from agent.model.protocol import LeaseStatus
from agent.model.redact import Redactor
from agent.model.work import Claim, Lease, workload_name
from agent.pipeline.attempt import FirstStage, Prepare, Start, run_attempt
from agent.pipeline.cancellation import CANCEL_REASONS, Cancellation, CancelReason
from agent.pipeline.dependencies import AttemptContext, Dependencies
from agent.pipeline.job_variables import secrets_of
from agent.pipeline.release_rules import Releases
from agent.pipeline.report import Report
from agent.pipeline.until_answered import retry_until_answered

#: Attempts whose releases are counted.
_MAX_COUNTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Running:
    claim: Claim
    cancellation: Cancellation
    task: asyncio.Task[None]


class Attempts:
    """Starts and cancels attempts, and knows the leases that they need."""

    def __init__(self, dependencies: Dependencies, capacity: CapacityTracker) -> None:
        self._dependencies = dependencies
        self._capacity = capacity
        self._running: dict[str, _Running] = {}
        #: Leases to renew although no attempt of them runs here yet: recovery has not decided, or a
        #: suspect waits until it is alone.
        self._undecided: dict[str, Lease] = {}
        self._ended = asyncio.Event()
        #: Items whose jobs have not been started yet.
        self._preparing: set[Lease] = set()
        self._prepared = asyncio.Event()
        #: By item and attempt.
        self._releases: LRUCache[tuple[str, int], Releases] = LRUCache(_MAX_COUNTED)

    def __len__(self) -> int:
        return len(self._running)

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All leases that have to be renewed."""
        running = {item: one.claim.lease for item, one in self._running.items()}
        return tuple((self._undecided | running).values())

    @property
    def names(self) -> frozenset[str]:
        """Names of the workloads and folders in use."""
        return frozenset(self._name(one.claim.lease) for one in self._running.values())

    def keep_leases(self, claims: Iterable[Claim]) -> None:
        """Renew the leases of these claims until each is started or released here."""
        self._undecided |= {claim.lease.item_id: claim.lease for claim in claims}

    def drop_lease(self, lease: Lease) -> None:
        """Renew it no more for its own sake: its attempt was started here, or it was released."""
        self._undecided.pop(lease.item_id, None)

    async def all_prepared(self) -> None:
        """Wait until every attempt's job was started, or has ended."""
        while self._preparing:
            self._prepared.clear()
            await self._prepared.wait()

    def start(self, claim: Claim, first: FirstStage) -> None:
        """Start the task of one attempt; its allocation counts from now on."""
        lease = claim.lease
        self.drop_lease(lease)
        if isinstance(first, Prepare | Start):
            self._preparing.add(lease)
        self._capacity.allocate(lease, self._counted(claim))
        cancellation = Cancellation()
        if claim.stop_requested:
            cancellation.send(CancelReason.STOP)
        previous = self._running.get(lease.item_id)
        work = self._run(claim, first, cancellation, previous)
        task = asyncio.create_task(work, name=f"attempt-{lease.item_id}")
        self._running[lease.item_id] = _Running(claim, cancellation, task)
        task.add_done_callback(lambda done: self._remove(lease, done))

    def _counted(self, claim: Claim) -> Allocation:
        """What the agent counts as taken: a job slot only, if the backend schedules by itself."""
        backend = self._dependencies.backends.get(claim.resource)
        try:
            if backend and backend.runner.demand(claim.spec.args_for(claim.resource)) is None:
                return Allocation()
        except LaunchError:
            pass  # resolving refuses the arguments, with this error as the message
        return claim.allocation

    def apply_lease_statuses(self, statuses: Mapping[str, LeaseStatus]) -> None:
        """Cancel the attempts whose item has the status STOP or FENCED."""
        for item, status in statuses.items():
            one, reason = self._running.get(item), CANCEL_REASONS.get(status)
            if reason is CancelReason.FENCED:
                self._undecided.pop(item, None)
            if one is not None and reason is not None:
                one.cancellation.send(reason)

    def cancel_all(self, reason: CancelReason) -> None:
        """Send a cancellation reason to every attempt."""
        for one in self._running.values():
            one.cancellation.send(reason)

    async def all_ended(self) -> None:
        """Wait until no attempt is left."""
        while self._running:
            self._ended.clear()
            await self._ended.wait()

    async def abandon(self) -> None:
        """Cancel all tasks and wait for their end; the workloads go on."""
        tasks = [one.task for one in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(
        self, claim: Claim, first: FirstStage, cancellation: Cancellation, previous: _Running | None
    ) -> None:
        if previous is not None:
            # 1. This process was suspended past its lease. 2. The item was queued again.
            # 3. It was claimed here again before a renewal informed the first attempt that it is
            # fenced. Both use the same workload name, so the first one has to end first.
            previous.cancellation.send(CancelReason.FENCED)
            await asyncio.wait({previous.task})
        dependencies, lease = self._dependencies, claim.lease
        key = lease.item_id, lease.attempt
        backend = dependencies.backends.get(claim.resource)
        if backend is None:
            await self._refuse(claim)
            return
        name = self._name(lease)
        redactor = Redactor(secrets_of(claim), base=dependencies.redactor)
        report = Report(
            dependencies.queue, lease, cancellation, dependencies.journal, redactor,
            dependencies.sleep,
        )  # fmt: skip
        context = AttemptContext(
            claim=claim,
            name=name,
            backend=backend,
            dependencies=dependencies,
            cancellation=cancellation,
            report=report,
            folder=dependencies.attempts_dir / name,
            free_allocation=lambda: self._capacity.free_allocation(lease),
            mark_prepared=lambda: self._end_preparing(lease),
            releases=self._releases.get(key, Releases()),
        )
        reason = await run_attempt(context, first)
        if reason is not None:
            self._releases[key] = context.releases.and_one_for(reason)

    def _end_preparing(self, lease: Lease) -> None:
        self._preparing.discard(lease)
        self._prepared.set()

    def _name(self, lease: Lease) -> str:
        return workload_name(self._dependencies.control_plane_id, lease.item_id, lease.attempt)

    async def _refuse(self, claim: Claim) -> None:
        served = ", ".join(sorted(self._dependencies.backends)) or "nothing"
        message = f"This agent serves {served}, and the job needs {claim.resource}."
        outcome = Refused(Cause.POLICY_RESOURCE, message)
        queue, sleep = self._dependencies.queue, self._dependencies.sleep
        try:
            await retry_until_answered(
                lambda: queue.finish(claim.lease, outcome, {}), "report of a refusal", sleep
            )
        except LaunchError as error:
            structlog.get_logger().warning(
                "the server did not accept the refusal of a job", error=str(error)
            )

    def _remove(self, lease: Lease, task: asyncio.Task[Any]) -> None:
        one = self._running.get(lease.item_id)
        if one is not None and one.task is task:
            del self._running[lease.item_id]
        self._capacity.free_allocation(lease)
        self._end_preparing(lease)
        self._ended.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log = structlog.get_logger().bind(item=lease.item_id)
            log.error("an attempt's task failed", exc_info=error)
