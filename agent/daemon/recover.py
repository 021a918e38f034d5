"""Before the first claim: adopt, deliver or sweep what earlier processes left behind."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from agent.daemon.attempts import Attempts
from agent.daemon.decide import Action, Noted, Seen, Server, decide
from agent.daemon.journal import Entry, Journal
from agent.model.cause import Cause
from agent.model.errors import LaunchError
from agent.model.outcome import Lost
from agent.model.phase import Phase
from agent.model.protocol import AttemptStatus
from agent.model.work import Claim, Lease
from agent.pipeline.attempt import Begin, Deliver, Follow, Prepare, Start
from agent.pipeline.dependencies import Backend
from agent.pipeline.retry import retry_until_answered
from agent.ports.queue import QueuePort
from agent.ports.runner import RunnerPort, Workload, WorkloadState

_PHASES: Final = {Phase.PERMITTED: Server.PERMITTED, Phase.STARTED: Server.STARTED}
_STANDINGS: Final = {
    AttemptStatus.ENDED: Server.OVER,
    AttemptStatus.ACTIVE: Server.ELSEWHERE,
    AttemptStatus.UNKNOWN: Server.UNKNOWN,
}
_STATES: Final = {
    WorkloadState.CREATED: Seen.CREATED,
    WorkloadState.RUNNING: Seen.RUNNING,
    WorkloadState.EXITED: Seen.EXITED,
}


#: Whatever an engine says instead of a list: it has to come back first.
_ANY_FAILURE: Final = (LaunchError,)

#: Item and attempt: what a workload's labels, a journal's entry and a claim share. The
#: epoch differs, since every process gets a fresh one.
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Found:
    """A workload, and who runs it."""

    runner: RunnerPort
    workload: Workload


class Recovery:
    """Joins what the control plane, the journal and the engines say."""

    def __init__(
        self,
        queue: QueuePort,
        journal: Journal,
        backends: Mapping[str, Backend],
        attempts: Attempts,
        *,
        grace: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._journal = journal
        self._lanes = backends
        self._attempts = attempts
        self._grace = grace
        self._sleep = sleep

    async def adopt(self, held: tuple[Claim, ...]) -> None:
        """Decide about everything that the control plane says is ours, then sweep.

        Waits for engines that do not answer: without their word nothing can be decided.
        """
        noted = {_key(entry.lease): entry for entry in await self._journal.entries()}
        found = await self._found()
        for claim in held:
            key = _key(claim.lease)
            self._resume(claim, noted.get(key), found.pop(key, None))
        ours = {_key(claim.lease) for claim in held}
        for key, entry in noted.items():
            if key not in ours and not entry.over:
                self._journal.dropped(entry.lease)
        await self._sweep(found, noted)

    async def sweep(self) -> None:
        """Remove workloads of attempts that are over; for the pruner, from time to time."""
        noted = {_key(entry.lease): entry for entry in await self._journal.entries()}
        mine = {_key(lease) for lease in self._attempts.leases}
        found = await self._found()
        await self._sweep({key: one for key, one in found.items() if key not in mine}, noted)

    def _resume(self, claim: Claim, entry: Entry | None, found: Found | None) -> None:
        server = _PHASES.get(claim.phase, Server.UNSTARTED)
        seen = _seen(found, claim.lease)
        action = decide(server, _noted(entry, claim.lease), seen)
        log = structlog.get_logger().bind(job=claim.lease.item_id, attempt=claim.lease.attempt)
        log.info("left by an earlier process", action=action.name.lower(), phase=claim.phase)
        self._attempts.begin(claim, _begin(action, entry, found))

    async def _found(self) -> dict[Key, Found]:
        found: dict[Key, Found] = {}
        for backend in self._lanes.values():
            runner = backend.runner
            owned = await retry_until_answered(
                runner.owned, f"list of jobs of {runner.resource}", self._sleep, _ANY_FAILURE
            )
            found |= {_key(workload.lease): Found(runner, workload) for workload in owned}
        return found

    async def _sweep(self, found: Mapping[Key, Found], noted: Mapping[Key, Entry]) -> None:
        for key, one in found.items():
            try:
                await self._sweep_one(one, noted.get(key))
            except LaunchError as error:
                # The pruner comes back to it.
                log = structlog.get_logger().bind(workload=one.workload.name)
                log.warning("not swept", error=str(error))

    async def _sweep_one(self, one: Found, entry: Entry | None) -> None:
        standing = await self._queue.attempt_status(one.workload.lease)
        seen = _STATES[one.workload.state]
        if decide(_STANDINGS[standing], _noted(entry), seen) is not Action.SWEEP:
            return
        structlog.get_logger().info("swept: its attempt is over", workload=one.workload.name)
        await one.runner.stop(one.workload, self._grace)
        await one.runner.destroy(one.workload)


def _begin(action: Action, entry: Entry | None, found: Found | None) -> Begin:
    workload = found.workload if found else None
    shift = entry.log_shift if entry else 0
    match action:
        case Action.START if workload is not None:
            return Start(workload)
        case Action.FOLLOW if workload is not None:
            return Follow(workload, shift)
        case Action.DELIVER if entry is not None and entry.outcome is not None:
            return Deliver(entry.outcome, workload, shift)
        case Action.PREPARE:
            return Prepare()
        case _:
            message = "the agent was restarted, and nothing is left of the job"
            return Deliver(Lost(Cause.LOST_WORKLOAD, message), workload, shift)


def _seen(found: Found | None, now: Lease) -> Seen:
    if found is None:
        return Seen.NOTHING
    seen = _STATES[found.workload.state]
    # Every adoption adds one: anything older may have been made under another grant.
    outdated = seen is Seen.CREATED and found.workload.lease.epoch != now.epoch - 1
    return Seen.OUTDATED if outdated else seen


def _noted(entry: Entry | None, now: Lease | None = None) -> Noted:
    match entry:
        case None:
            return Noted.NOTHING
        case Entry(outcome=outcome, over=False) if outcome is not None:
            return Noted.OUTCOME
        case Entry(over=True):
            return Noted.OVER
        case Entry(start_intended=True):
            return Noted.INTENDED
        case Entry(lease=before) if now is not None and before.epoch != now.epoch - 1:
            # Somebody else held it in between, who may have sent a start.
            return Noted.INTENDED
        case _:
            return Noted.OPENED


def _key(lease: Lease) -> Key:
    return lease.item_id, lease.attempt
