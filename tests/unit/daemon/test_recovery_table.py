"""Every row of the recovery table."""

import itertools

import pytest

from agent.daemon.journal import JournalEntry
from agent.daemon.recovery import (
    JournalState,
    RecoveryAction,
    RunnerState,
    ServerState,
    _journal_state,
    decide,
)
from agent.model.cause import Cause
from agent.model.phase import Errored
from agent.model.work import Lease

ALL = list(itertools.product(ServerState, JournalState, RunnerState))
OURS = {ServerState.UNSTARTED, ServerState.PERMITTED, ServerState.STARTED}
STARTS = {RecoveryAction.PREPARE, RecoveryAction.START}


@pytest.mark.parametrize(("server", "journal", "runner"), ALL)
def test_every_case_is_decided_and_none_starts_twice(
    server: ServerState, journal: JournalState, runner: RunnerState
) -> None:
    action = decide(server, journal, runner)
    if runner in {RunnerState.RUNNING, RunnerState.EXITED}:
        assert action not in STARTS
    if journal is JournalState.SENT or server is ServerState.STARTED:
        assert action not in STARTS
    if server is ServerState.PERMITTED and journal is not JournalState.NOT_SENT:
        assert action not in STARTS
    if server not in OURS:
        assert action in {RecoveryAction.KEEP, RecoveryAction.REMOVE}
    if action is RecoveryAction.START:
        assert runner is RunnerState.CREATED
    if action is RecoveryAction.SETTLE:
        assert runner in {RunnerState.CREATED, RunnerState.OUTDATED}
    if action is RecoveryAction.FOLLOW:
        assert runner in {RunnerState.RUNNING, RunnerState.EXITED}
    if action is RecoveryAction.DELIVER:
        assert journal is JournalState.OUTCOME
    if action is RecoveryAction.REMOVE:
        assert server is ServerState.ENDED or journal is not JournalState.NOTHING


ROWS = [
    ("UNSTARTED", "NOTHING", "NOTHING", "PREPARE"),
    ("UNSTARTED", "NOTHING", "CREATED", "START"),
    ("UNSTARTED", "NOTHING", "OUTDATED", "PREPARE"),
    ("UNSTARTED", "NOTHING", "RUNNING", "FOLLOW"),
    ("UNSTARTED", "NOT_SENT", "NOTHING", "PREPARE"),
    ("UNSTARTED", "NOT_SENT", "CREATED", "START"),
    # The control plane was restored from a backup, without the permit.
    ("UNSTARTED", "SENT", "NOTHING", "REPORT_LOST"),
    ("UNSTARTED", "SENT", "CREATED", "SETTLE"),
    ("PERMITTED", "NOT_SENT", "NOTHING", "PREPARE"),
    ("PERMITTED", "NOT_SENT", "CREATED", "START"),
    ("PERMITTED", "NOT_SENT", "OUTDATED", "PREPARE"),
    ("PERMITTED", "NOTHING", "NOTHING", "REPORT_LOST"),
    ("PERMITTED", "NOTHING", "CREATED", "SETTLE"),
    ("PERMITTED", "CLOSED", "CREATED", "SETTLE"),
    ("PERMITTED", "SENT", "NOTHING", "REPORT_LOST"),
    ("PERMITTED", "SENT", "CREATED", "SETTLE"),
    ("PERMITTED", "SENT", "OUTDATED", "SETTLE"),
    ("PERMITTED", "SENT", "RUNNING", "FOLLOW"),
    ("STARTED", "SENT", "RUNNING", "FOLLOW"),
    ("STARTED", "SENT", "EXITED", "FOLLOW"),
    ("STARTED", "NOT_SENT", "NOTHING", "REPORT_LOST"),
    ("STARTED", "SENT", "CREATED", "REPORT_LOST"),
    ("STARTED", "OUTCOME", "EXITED", "DELIVER"),
    ("NOT_HELD", "SENT", "RUNNING", "KEEP"),
    ("ENDED", "NOTHING", "EXITED", "REMOVE"),
    ("UNKNOWN", "NOTHING", "RUNNING", "KEEP"),
    ("UNKNOWN", "SENT", "RUNNING", "REMOVE"),
]


@pytest.mark.parametrize(("server", "journal", "runner", "action"), ROWS)
def test_the_rows_of_the_design(server: str, journal: str, runner: str, action: str) -> None:
    decided = decide(ServerState[server], JournalState[journal], RunnerState[runner])
    assert decided is RecoveryAction[action]


@pytest.mark.parametrize(
    ("epoch", "sent", "state"),
    [(4, False, "OUTCOME"), (4, True, "OUTCOME"), (2, True, "OUTCOME"), (2, False, "NOTHING")],
)
def test_an_outcome_from_before_the_start_counts_until_another_agent_held_the_attempt(
    epoch: int, sent: bool, state: str
) -> None:
    """That agent may have started it since, and then lost contact."""
    outcome = Errored(Cause.SOURCE_NOT_FOUND, "no such branch")
    entry = JournalEntry(Lease("item", 1, epoch), sent, "", outcome, over=False)
    assert _journal_state(entry, Lease("item", 1, 5)) is JournalState[state]
