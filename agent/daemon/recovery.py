"""Recovery at startup: adopt, report or remove the attempts of earlier processes.

`decide` is the whole policy, a pure table over three observations of an attempt: its state at the
control plane, in the journal, and at the runner.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import structlog

from agent.daemon.attempts import Attempts
from agent.daemon.journal import Journal, JournalEntry
from agent.model.cause import Cause
from agent.model.errors import LaunchError
from agent.model.phase import Lost, Phase
from agent.model.protocol import AttemptStatus
from agent.model.work import Claim, Lease
from agent.pipeline.attempt import Deliver, FirstStage, Follow, Prepare, Settle, Start
from agent.pipeline.dependencies import Backend
from agent.pipeline.logs import ResumePoint
from agent.pipeline.until_answered import retry_until_answered
from agent.ports.queue import QueuePort
from agent.ports.runner import RunnerPort, Workload, WorkloadState
from agent.system.backoff import Sleep

# ---------------------------------------------------------------------- the decision table


class ServerState(Enum):
    """The attempt's state at the control plane."""

    #: Held by this agent, LEASED or PREPARING.
    UNSTARTED = auto()
    #: Held by this agent, PERMITTED.
    PERMITTED = auto()
    #: Held by this agent, STARTED.
    STARTED = auto()
    #: Queued, or held by another agent.
    NOT_HELD = auto()
    #: It has an outcome.
    ENDED = auto()
    #: No such item, or none that this agent may read.
    UNKNOWN = auto()


class JournalState(Enum):
    """The attempt's state in the journal."""

    #: No entry, or one older than the lease that this registration renewed: a later holder may
    #: have sent a start.
    NOTHING = auto()
    #: No start was ever sent.
    NOT_SENT = auto()
    #: A start was sent, or was about to be.
    SENT = auto()
    #: The outcome is known and was not acknowledged.
    OUTCOME = auto()
    #: The outcome was acknowledged, or the attempt was lost to another agent.
    CLOSED = auto()


class RunnerState(Enum):
    """The state of the workload with the attempt's name."""

    NOTHING = auto()
    #: The backend says that it was never started; wrong where an engine was killed in the middle
    #: of a start.
    CREATED = auto()
    #: The same, and created under a lease that was lost: its token and devices are void.
    OUTDATED = auto()
    RUNNING = auto()
    EXITED = auto()


class RecoveryAction(Enum):
    """What to do."""

    #: Run the attempt from its first stage.
    PREPARE = auto()
    #: Obtain the permit, then start the workload that exists.
    START = auto()
    #: A start may have been sent: find out what it led to, and send none.
    SETTLE = auto()
    #: Watch the workload, or read how it ended.
    FOLLOW = auto()
    #: Report the outcome that the journal has.
    DELIVER = auto()
    #: Report that its ending is unknown.
    REPORT_LOST = auto()
    #: Stop and remove the workload.
    REMOVE = auto()
    #: Touch nothing.
    KEEP = auto()


def decide(server: ServerState, journal: JournalState, runner: RunnerState) -> RecoveryAction:
    """The action for one attempt: once a start may have been sent, none is sent again."""
    match server:
        case ServerState.UNSTARTED | ServerState.PERMITTED | ServerState.STARTED:
            return _decide_held(server, journal, runner)
        case ServerState.NOT_HELD:
            return RecoveryAction.KEEP
        case ServerState.ENDED:
            return RecoveryAction.REMOVE
        case ServerState.UNKNOWN:
            # With a journal entry it was this agent's, and the control plane no longer tracks it.
            # Without one it may belong to another agent on the same engine.
            return RecoveryAction.KEEP if journal is JournalState.NOTHING else RecoveryAction.REMOVE


def _decide_held(server: ServerState, journal: JournalState, runner: RunnerState) -> RecoveryAction:
    if journal is JournalState.OUTCOME:
        return RecoveryAction.DELIVER
    if runner in {RunnerState.RUNNING, RunnerState.EXITED}:
        return RecoveryAction.FOLLOW
    if server is ServerState.STARTED:
        # The start was answered; a backend that shows none has lost it.
        return RecoveryAction.REPORT_LOST
    # The journal's note is written after the permit is granted and before the start is sent.
    not_sent = journal is JournalState.NOT_SENT or (
        server is ServerState.UNSTARTED and journal is not JournalState.SENT
    )
    match runner:
        case RunnerState.CREATED:
            return RecoveryAction.START if not_sent else RecoveryAction.SETTLE
        case RunnerState.OUTDATED:
            # Creating it again replaces it.
            return RecoveryAction.PREPARE if not_sent else RecoveryAction.SETTLE
        case _:
            return RecoveryAction.PREPARE if not_sent else RecoveryAction.REPORT_LOST


# ------------------------------------------------------------------------- observations

_BY_PHASE: Final = {Phase.PERMITTED: ServerState.PERMITTED, Phase.STARTED: ServerState.STARTED}
#: Of attempts that this process does not hold: an active one waits, or another agent holds it.
_BY_STATUS: Final = {
    AttemptStatus.ENDED: ServerState.ENDED,
    AttemptStatus.ACTIVE: ServerState.NOT_HELD,
    AttemptStatus.UNKNOWN: ServerState.UNKNOWN,
}
_BY_STATE: Final = {
    WorkloadState.CREATED: RunnerState.CREATED,
    WorkloadState.PENDING: RunnerState.RUNNING,
    WorkloadState.RUNNING: RunnerState.RUNNING,
    WorkloadState.EXITED: RunnerState.EXITED,
}

#: Item and attempt: what a workload's labels, a journal entry and a claim have in common. The
#: epoch differs, since every registration increments it.
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Found:
    """A workload, and the runner that found it."""

    runner: RunnerPort
    workload: Workload


class Recovery:
    """Compares the control plane, the journal and the runners, and acts on the differences."""

    def __init__(
        self,
        queue: QueuePort,
        journal: Journal,
        backends: Mapping[str, Backend],
        attempts: Attempts,
        *,
        grace: float,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._journal = journal
        self._backends = backends
        self._attempts = attempts
        self._grace = grace
        self._sleep = sleep

    async def adopt(self, held: tuple[Claim, ...]) -> None:
        """Decide about every claim that this agent holds, then about the other workloads.

        Waits for backends that do not answer: nothing can be decided without their lists.
        """
        entries = {_key(entry.lease): entry for entry in await self._journal.entries()}
        found = await self._find_workloads()
        for claim in held:
            key = _key(claim.lease)
            await self._resume(claim, entries.get(key), found.pop(key, None))
        held_keys = {_key(claim.lease) for claim in held}
        for key, entry in entries.items():
            if key not in held_keys and not entry.over:
                self._journal.closed(entry.lease)
        await self._remove_if_ended(found, entries)

    async def adopt_more(self, given: tuple[Claim, ...]) -> None:
        """Resume started attempts that other agents of a backend have left; waits as `adopt`."""
        self._attempts.keep_leases(given)
        entries = {_key(entry.lease): entry for entry in await self._journal.entries()}
        found = await self._find_workloads()
        for claim in given:
            key = _key(claim.lease)
            await self._resume(claim, entries.get(key), found.get(key))

    async def remove_ended(self) -> None:
        """Remove workloads of attempts that are over; called periodically."""
        entries = {_key(entry.lease): entry for entry in await self._journal.entries()}
        current = {_key(lease) for lease in self._attempts.leases}
        for backend in self._backends.values():
            try:
                found = _found(backend.runner, await backend.runner.owned())
            except LaunchError as error:
                log = structlog.get_logger().bind(resource=backend.runner.resource)
                log.warning(
                    "workloads are not listed; the next pruning tries again", error=str(error)
                )
                continue
            others = {key: one for key, one in found.items() if key not in current}
            await self._remove_if_ended(others, entries)

    async def _resume(self, claim: Claim, entry: JournalEntry | None, found: Found | None) -> None:
        server = _BY_PHASE.get(claim.phase, ServerState.UNSTARTED)
        journal, runner = _journal_state(entry, claim.lease), _runner_state(found, claim.lease)
        action = decide(server, journal, runner)
        log = structlog.get_logger().bind(item=claim.lease.item_id, attempt=claim.lease.attempt)
        log.info(
            "resuming an attempt of an earlier process",
            action=action.name.lower(),
            phase=claim.phase,
        )
        if action is RecoveryAction.PREPARE and claim.is_suspect:
            await self._release(claim)
        else:
            self._attempts.start(claim, _first_stage(action, entry, found))

    async def _release(self, claim: Claim) -> None:
        """Release an item that the claim loop is to prepare alone, once it is claimed again."""
        reason = "agents died while they prepared it, so it is prepared alone"
        with suppress(LaunchError):
            await retry_until_answered(
                lambda: self._queue.release(claim.lease, reason), "release of an item", self._sleep
            )
        self._attempts.drop_lease(claim.lease)

    async def _find_workloads(self) -> dict[Key, Found]:
        found: dict[Key, Found] = {}
        for backend in self._backends.values():
            runner = backend.runner
            # Whatever error the engine gives: it has to be repaired first.
            owned = await retry_until_answered(
                runner.owned, f"listing jobs of {runner.resource}", self._sleep, (LaunchError,)
            )
            found |= _found(runner, owned)
        return found

    async def _remove_if_ended(
        self, found: Mapping[Key, Found], entries: Mapping[Key, JournalEntry]
    ) -> None:
        for key, one in found.items():
            log = structlog.get_logger().bind(workload=one.workload.name)
            try:
                status = _BY_STATUS[await self._queue.attempt_status(one.workload.lease)]
                state = _BY_STATE[one.workload.state]
                if decide(status, _journal_state(entries.get(key)), state) is RecoveryAction.REMOVE:
                    log.info("removing a workload whose attempt is over")
                    await one.runner.stop(one.workload, self._grace)
                    await one.runner.destroy(one.workload)
            except LaunchError as error:
                log.warning("not removed; the next pruning tries again", error=str(error))


def _found(runner: RunnerPort, owned: list[Workload]) -> dict[Key, Found]:
    return {_key(workload.lease): Found(runner, workload) for workload in owned}


def _first_stage(
    action: RecoveryAction, entry: JournalEntry | None, found: Found | None
) -> FirstStage:
    workload = found.workload if found else None
    resume = ResumePoint.from_text(entry.log_resume if entry else "")
    match action:
        case RecoveryAction.START if workload is not None:
            return Start(workload)
        case RecoveryAction.SETTLE if workload is not None:
            return Settle(workload)
        case RecoveryAction.FOLLOW if workload is not None:
            return Follow(workload, resume)
        case RecoveryAction.DELIVER if entry is not None and entry.outcome is not None:
            return Deliver(entry.outcome, workload, resume)
        case RecoveryAction.PREPARE:
            return Prepare()
        case _:
            message = "the agent was restarted, and nothing is left of the job"
            return Deliver(Lost(Cause.LOST_WORKLOAD, message), workload, resume)


def _runner_state(found: Found | None, current: Lease) -> RunnerState:
    if found is None:
        return RunnerState.NOTHING
    state = _BY_STATE[found.workload.state]
    # Every adoption adds one to the epoch: anything older was created under another lease.
    outdated = state is RunnerState.CREATED and found.workload.lease.epoch != current.epoch - 1
    return RunnerState.OUTDATED if outdated else state


def _journal_state(entry: JournalEntry | None, current: Lease | None = None) -> JournalState:
    if entry is None:
        return JournalState.NOTHING
    # Another agent may have held it in between, and may have sent a start.
    outdated = current is not None and entry.lease.epoch != current.epoch - 1
    match entry:
        case JournalEntry(over=True):
            return JournalState.CLOSED
        case JournalEntry(outcome=outcome, start_sent=sent) if outcome and (sent or not outdated):
            return JournalState.OUTCOME
        case JournalEntry(start_sent=True):
            return JournalState.SENT
        case _:
            return JournalState.NOTHING if outdated else JournalState.NOT_SENT


def _key(lease: Lease) -> Key:
    return lease.item_id, lease.attempt
