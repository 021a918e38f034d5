"""Every row of the recovery table."""

import itertools

import pytest

from agent.daemon.recovery import Action, JournalSays, RunnerFinds, ServerSays, decide

ALL = list(itertools.product(ServerSays, JournalSays, RunnerFinds))
OURS = {ServerSays.UNSTARTED, ServerSays.PERMITTED, ServerSays.STARTED}


@pytest.mark.parametrize(("server", "journal", "runner"), ALL)
def test_every_case_is_decided_and_none_starts_twice(
    server: ServerSays, journal: JournalSays, runner: RunnerFinds
) -> None:
    action = decide(server, journal, runner)
    if runner in {RunnerFinds.RUNNING, RunnerFinds.EXITED}:
        assert action not in {Action.PREPARE, Action.START}
    if server is ServerSays.STARTED:
        assert action not in {Action.PREPARE, Action.START}
    if server not in OURS:
        assert action in {Action.KEEP, Action.REMOVE}
    if action is Action.START:
        assert runner in {RunnerFinds.CREATED, RunnerFinds.OUTDATED}
    if action is Action.FOLLOW:
        assert runner in {RunnerFinds.RUNNING, RunnerFinds.EXITED}
    if action is Action.DELIVER:
        assert journal is JournalSays.OUTCOME
    if action is Action.REMOVE:
        assert server is ServerSays.ENDED or journal is not JournalSays.NOTHING


@pytest.mark.parametrize(
    ("server", "journal", "runner", "action"),
    [
        (ServerSays.UNSTARTED, JournalSays.NOTHING, RunnerFinds.NOTHING, Action.PREPARE),
        (ServerSays.UNSTARTED, JournalSays.START_INTENDED, RunnerFinds.NOTHING, Action.PREPARE),
        (ServerSays.UNSTARTED, JournalSays.NOTHING, RunnerFinds.CREATED, Action.START),
        (ServerSays.UNSTARTED, JournalSays.NOTHING, RunnerFinds.OUTDATED, Action.PREPARE),
        (ServerSays.UNSTARTED, JournalSays.NOTHING, RunnerFinds.RUNNING, Action.FOLLOW),
        (ServerSays.PERMITTED, JournalSays.NOT_STARTED, RunnerFinds.NOTHING, Action.PREPARE),
        (ServerSays.PERMITTED, JournalSays.NOTHING, RunnerFinds.NOTHING, Action.REPORT_LOST),
        (
            ServerSays.PERMITTED,
            JournalSays.START_INTENDED,
            RunnerFinds.NOTHING,
            Action.REPORT_LOST,
        ),
        (ServerSays.PERMITTED, JournalSays.START_INTENDED, RunnerFinds.CREATED, Action.START),
        (ServerSays.PERMITTED, JournalSays.START_INTENDED, RunnerFinds.OUTDATED, Action.START),
        (ServerSays.STARTED, JournalSays.START_INTENDED, RunnerFinds.RUNNING, Action.FOLLOW),
        (ServerSays.STARTED, JournalSays.START_INTENDED, RunnerFinds.EXITED, Action.FOLLOW),
        (ServerSays.STARTED, JournalSays.NOT_STARTED, RunnerFinds.NOTHING, Action.REPORT_LOST),
        (ServerSays.STARTED, JournalSays.START_INTENDED, RunnerFinds.CREATED, Action.REPORT_LOST),
        (ServerSays.STARTED, JournalSays.OUTCOME, RunnerFinds.EXITED, Action.DELIVER),
        (ServerSays.NOT_HELD, JournalSays.START_INTENDED, RunnerFinds.RUNNING, Action.KEEP),
        (ServerSays.ENDED, JournalSays.NOTHING, RunnerFinds.EXITED, Action.REMOVE),
        (ServerSays.UNKNOWN, JournalSays.NOTHING, RunnerFinds.RUNNING, Action.KEEP),
        (ServerSays.UNKNOWN, JournalSays.START_INTENDED, RunnerFinds.RUNNING, Action.REMOVE),
    ],
)
def test_the_rows_of_the_design(
    server: ServerSays, journal: JournalSays, runner: RunnerFinds, action: Action
) -> None:
    assert decide(server, journal, runner) is action
