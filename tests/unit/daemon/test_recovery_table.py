"""Every row of the recovery table."""

import itertools

import pytest

from agent.daemon.recovery import JournalSays, RecoveryAction, RunnerFinds, ServerSays, decide

ALL = list(itertools.product(ServerSays, JournalSays, RunnerFinds))
OURS = {ServerSays.UNSTARTED, ServerSays.PERMITTED, ServerSays.STARTED}


@pytest.mark.parametrize(("server", "journal", "runner"), ALL)
def test_every_case_is_decided_and_none_starts_twice(
    server: ServerSays, journal: JournalSays, runner: RunnerFinds
) -> None:
    action = decide(server, journal, runner)
    if runner in {RunnerFinds.RUNNING, RunnerFinds.EXITED}:
        assert action not in {RecoveryAction.PREPARE, RecoveryAction.START}
    if server is ServerSays.STARTED:
        assert action not in {RecoveryAction.PREPARE, RecoveryAction.START}
    if server not in OURS:
        assert action in {RecoveryAction.KEEP, RecoveryAction.REMOVE}
    if action is RecoveryAction.START:
        assert runner in {RunnerFinds.CREATED, RunnerFinds.OUTDATED}
    if action is RecoveryAction.FOLLOW:
        assert runner in {RunnerFinds.RUNNING, RunnerFinds.EXITED}
    if action is RecoveryAction.DELIVER:
        assert journal is JournalSays.OUTCOME
    if action is RecoveryAction.REMOVE:
        assert server is ServerSays.ENDED or journal is not JournalSays.NOTHING


@pytest.mark.parametrize(
    ("server", "journal", "runner", "action"),
    [
        (ServerSays.UNSTARTED, JournalSays.NOTHING, RunnerFinds.NOTHING, RecoveryAction.PREPARE),
        (
            ServerSays.UNSTARTED,
            JournalSays.START_INTENDED,
            RunnerFinds.NOTHING,
            RecoveryAction.PREPARE,
        ),
        (ServerSays.UNSTARTED, JournalSays.NOTHING, RunnerFinds.CREATED, RecoveryAction.START),
        (ServerSays.UNSTARTED, JournalSays.NOTHING, RunnerFinds.OUTDATED, RecoveryAction.PREPARE),
        (ServerSays.UNSTARTED, JournalSays.NOTHING, RunnerFinds.RUNNING, RecoveryAction.FOLLOW),
        (
            ServerSays.PERMITTED,
            JournalSays.NOT_STARTED,
            RunnerFinds.NOTHING,
            RecoveryAction.PREPARE,
        ),
        (
            ServerSays.PERMITTED,
            JournalSays.NOTHING,
            RunnerFinds.NOTHING,
            RecoveryAction.REPORT_LOST,
        ),
        (
            ServerSays.PERMITTED,
            JournalSays.START_INTENDED,
            RunnerFinds.NOTHING,
            RecoveryAction.REPORT_LOST,
        ),
        (
            ServerSays.PERMITTED,
            JournalSays.START_INTENDED,
            RunnerFinds.CREATED,
            RecoveryAction.START,
        ),
        (
            ServerSays.PERMITTED,
            JournalSays.START_INTENDED,
            RunnerFinds.OUTDATED,
            RecoveryAction.START,
        ),
        (
            ServerSays.STARTED,
            JournalSays.START_INTENDED,
            RunnerFinds.RUNNING,
            RecoveryAction.FOLLOW,
        ),
        (ServerSays.STARTED, JournalSays.START_INTENDED, RunnerFinds.EXITED, RecoveryAction.FOLLOW),
        (
            ServerSays.STARTED,
            JournalSays.NOT_STARTED,
            RunnerFinds.NOTHING,
            RecoveryAction.REPORT_LOST,
        ),
        (
            ServerSays.STARTED,
            JournalSays.START_INTENDED,
            RunnerFinds.CREATED,
            RecoveryAction.REPORT_LOST,
        ),
        (ServerSays.STARTED, JournalSays.OUTCOME, RunnerFinds.EXITED, RecoveryAction.DELIVER),
        (ServerSays.NOT_HELD, JournalSays.START_INTENDED, RunnerFinds.RUNNING, RecoveryAction.KEEP),
        (ServerSays.ENDED, JournalSays.NOTHING, RunnerFinds.EXITED, RecoveryAction.REMOVE),
        (ServerSays.UNKNOWN, JournalSays.NOTHING, RunnerFinds.RUNNING, RecoveryAction.KEEP),
        (
            ServerSays.UNKNOWN,
            JournalSays.START_INTENDED,
            RunnerFinds.RUNNING,
            RecoveryAction.REMOVE,
        ),
    ],
)
def test_the_rows_of_the_design(
    server: ServerSays, journal: JournalSays, runner: RunnerFinds, action: RecoveryAction
) -> None:
    assert decide(server, journal, runner) is action
