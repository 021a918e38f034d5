"""Every row of the recovery table."""

import itertools

import pytest

from agent.daemon.recovery import JournalState, RecoveryAction, RunnerState, ServerState, decide

ALL = list(itertools.product(ServerState, JournalState, RunnerState))
OURS = {ServerState.UNSTARTED, ServerState.PERMITTED, ServerState.STARTED}


@pytest.mark.parametrize(("server", "journal", "runner"), ALL)
def test_every_case_is_decided_and_none_starts_twice(
    server: ServerState, journal: JournalState, runner: RunnerState
) -> None:
    action = decide(server, journal, runner)
    if runner in {RunnerState.RUNNING, RunnerState.EXITED}:
        assert action not in {RecoveryAction.PREPARE, RecoveryAction.START}
    if server is ServerState.STARTED:
        assert action not in {RecoveryAction.PREPARE, RecoveryAction.START}
    if server not in OURS:
        assert action in {RecoveryAction.KEEP, RecoveryAction.REMOVE}
    if action is RecoveryAction.START:
        assert runner in {RunnerState.CREATED, RunnerState.OUTDATED}
    if action is RecoveryAction.FOLLOW:
        assert runner in {RunnerState.RUNNING, RunnerState.EXITED}
    if action is RecoveryAction.DELIVER:
        assert journal is JournalState.OUTCOME
    if action is RecoveryAction.REMOVE:
        assert server is ServerState.ENDED or journal is not JournalState.NOTHING


@pytest.mark.parametrize(
    ("server", "journal", "runner", "action"),
    [
        (ServerState.UNSTARTED, JournalState.NOTHING, RunnerState.NOTHING, RecoveryAction.PREPARE),
        (
            ServerState.UNSTARTED,
            JournalState.START_INTENDED,
            RunnerState.NOTHING,
            RecoveryAction.PREPARE,
        ),
        (ServerState.UNSTARTED, JournalState.NOTHING, RunnerState.CREATED, RecoveryAction.START),
        (ServerState.UNSTARTED, JournalState.NOTHING, RunnerState.OUTDATED, RecoveryAction.PREPARE),
        (ServerState.UNSTARTED, JournalState.NOTHING, RunnerState.RUNNING, RecoveryAction.FOLLOW),
        (
            ServerState.PERMITTED,
            JournalState.NOT_STARTED,
            RunnerState.NOTHING,
            RecoveryAction.PREPARE,
        ),
        (
            ServerState.PERMITTED,
            JournalState.NOTHING,
            RunnerState.NOTHING,
            RecoveryAction.REPORT_LOST,
        ),
        (
            ServerState.PERMITTED,
            JournalState.START_INTENDED,
            RunnerState.NOTHING,
            RecoveryAction.REPORT_LOST,
        ),
        (
            ServerState.PERMITTED,
            JournalState.START_INTENDED,
            RunnerState.CREATED,
            RecoveryAction.START,
        ),
        (
            ServerState.PERMITTED,
            JournalState.START_INTENDED,
            RunnerState.OUTDATED,
            RecoveryAction.START,
        ),
        (
            ServerState.STARTED,
            JournalState.START_INTENDED,
            RunnerState.RUNNING,
            RecoveryAction.FOLLOW,
        ),
        (
            ServerState.STARTED,
            JournalState.START_INTENDED,
            RunnerState.EXITED,
            RecoveryAction.FOLLOW,
        ),
        (
            ServerState.STARTED,
            JournalState.NOT_STARTED,
            RunnerState.NOTHING,
            RecoveryAction.REPORT_LOST,
        ),
        (
            ServerState.STARTED,
            JournalState.START_INTENDED,
            RunnerState.CREATED,
            RecoveryAction.REPORT_LOST,
        ),
        (ServerState.STARTED, JournalState.OUTCOME, RunnerState.EXITED, RecoveryAction.DELIVER),
        (
            ServerState.NOT_HELD,
            JournalState.START_INTENDED,
            RunnerState.RUNNING,
            RecoveryAction.KEEP,
        ),
        (ServerState.ENDED, JournalState.NOTHING, RunnerState.EXITED, RecoveryAction.REMOVE),
        (ServerState.UNKNOWN, JournalState.NOTHING, RunnerState.RUNNING, RecoveryAction.KEEP),
        (
            ServerState.UNKNOWN,
            JournalState.START_INTENDED,
            RunnerState.RUNNING,
            RecoveryAction.REMOVE,
        ),
    ],
)
def test_the_rows_of_the_design(
    server: ServerState, journal: JournalState, runner: RunnerState, action: RecoveryAction
) -> None:
    assert decide(server, journal, runner) is action
