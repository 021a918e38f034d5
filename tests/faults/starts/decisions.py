"""Recovery's real decisions about states of the model."""

from functools import cache
from typing import Any, cast

from agent.daemon import recovery
from agent.daemon.journal import JournalEntry
from agent.daemon.recovery import Found, RecoveryAction, ServerState
from agent.model.phase import Phase, Succeeded
from agent.model.work import Lease
from agent.ports.runner import Workload, WorkloadState
from tests.faults.starts.world import Agent, Container, Decide, Entry, Item, Setup

_NO_RUNNER = cast("Any", None)


def present(
    phase: Phase, lease: Lease, entry: JournalEntry | None, found: Found | None
) -> RecoveryAction:
    """The rules as they are."""
    server = recovery._BY_PHASE.get(phase, ServerState.UNSTARTED)
    journal = recovery._journal_state(entry, lease)
    return recovery.decide(server, journal, recovery._runner_state(found, lease))


def before_issue_11(
    phase: Phase, lease: Lease, entry: JournalEntry | None, found: Found | None
) -> RecoveryAction:
    """The rules with the fault E1: what the engine calls `created` is started (again)."""
    is_created = found is not None and found.workload.state is WorkloadState.CREATED
    known = entry is not None and entry.outcome is not None and not entry.over
    if phase is Phase.PERMITTED and is_created and not known:
        return RecoveryAction.START
    return present(phase, lease, entry, found)


def resumption(
    setup: Setup, item: Item, me: Agent, entry: Entry | None, found: Container | None
) -> RecoveryAction:
    """What a new process does about the item that its agent holds."""
    return _resumption(setup.decide, item.phase, me.attempt, me.epoch, entry, found)


@cache
def _resumption(
    decide: Decide,
    phase: Phase,
    attempt: int,
    epoch: int,
    entry: Entry | None,
    found: Container | None,
) -> RecoveryAction:
    lease = Lease("item", attempt, epoch)
    return decide(phase, lease, _entry(attempt, entry), _found(attempt, found))


@cache
def is_removed(entry: Entry | None, found: Container, *, is_over: bool) -> bool:
    """Whether an agent removes the workload of an attempt that it does not hold."""
    status = ServerState.ENDED if is_over else ServerState.NOT_HELD
    journal = recovery._journal_state(_entry(1, entry))
    state = recovery._BY_STATE[found.state]
    return recovery.decide(status, journal, state) is RecoveryAction.REMOVE


def _entry(attempt: int, entry: Entry | None) -> JournalEntry | None:
    if entry is None:
        return None
    return JournalEntry(
        Lease("item", attempt, entry.epoch),
        start_sent=entry.start_sent,
        log_resume="",
        outcome=None if entry.outcome is None else Succeeded(),
        over=entry.over,
    )


def _found(attempt: int, found: Container | None) -> Found | None:
    if found is None:
        return None
    lease = Lease("item", attempt, found.epoch)
    return Found(_NO_RUNNER, Workload("name", "id", lease, found.state))
