"""The adoption table, whole."""

import itertools

import pytest

from agent.daemon.decide import Action, Noted, Seen, Server, decide

ALL = list(itertools.product(Server, Noted, Seen))
OURS = {Server.UNSTARTED, Server.PERMITTED, Server.STARTED}


@pytest.mark.parametrize(("server", "noted", "seen"), ALL)
def test_every_case_is_decided_and_none_starts_twice(
    server: Server, noted: Noted, seen: Seen
) -> None:
    action = decide(server, noted, seen)
    if seen in {Seen.RUNNING, Seen.EXITED}:
        assert action not in {Action.PREPARE, Action.START}
    if server is Server.STARTED:
        assert action not in {Action.PREPARE, Action.START}
    if server not in OURS:
        assert action in {Action.LEAVE, Action.SWEEP}
    if action is Action.START:
        assert seen in {Seen.CREATED, Seen.OUTDATED}
    if action is Action.FOLLOW:
        assert seen in {Seen.RUNNING, Seen.EXITED}
    if action is Action.DELIVER:
        assert noted is Noted.OUTCOME
    if action is Action.SWEEP:
        assert server is Server.OVER or noted is not Noted.NOTHING


@pytest.mark.parametrize(
    ("server", "noted", "seen", "action"),
    [
        (Server.UNSTARTED, Noted.NOTHING, Seen.NOTHING, Action.PREPARE),
        (Server.UNSTARTED, Noted.INTENDED, Seen.NOTHING, Action.PREPARE),
        (Server.UNSTARTED, Noted.NOTHING, Seen.CREATED, Action.START),
        (Server.UNSTARTED, Noted.NOTHING, Seen.OUTDATED, Action.PREPARE),
        (Server.UNSTARTED, Noted.NOTHING, Seen.RUNNING, Action.FOLLOW),
        (Server.PERMITTED, Noted.OPENED, Seen.NOTHING, Action.PREPARE),
        (Server.PERMITTED, Noted.NOTHING, Seen.NOTHING, Action.LOSE),
        (Server.PERMITTED, Noted.INTENDED, Seen.NOTHING, Action.LOSE),
        (Server.PERMITTED, Noted.INTENDED, Seen.CREATED, Action.START),
        (Server.PERMITTED, Noted.INTENDED, Seen.OUTDATED, Action.START),
        (Server.STARTED, Noted.INTENDED, Seen.RUNNING, Action.FOLLOW),
        (Server.STARTED, Noted.INTENDED, Seen.EXITED, Action.FOLLOW),
        (Server.STARTED, Noted.OPENED, Seen.NOTHING, Action.LOSE),
        (Server.STARTED, Noted.INTENDED, Seen.CREATED, Action.LOSE),
        (Server.STARTED, Noted.OUTCOME, Seen.EXITED, Action.DELIVER),
        (Server.ELSEWHERE, Noted.INTENDED, Seen.RUNNING, Action.LEAVE),
        (Server.OVER, Noted.NOTHING, Seen.EXITED, Action.SWEEP),
        (Server.UNKNOWN, Noted.NOTHING, Seen.RUNNING, Action.LEAVE),
        (Server.UNKNOWN, Noted.INTENDED, Seen.RUNNING, Action.SWEEP),
    ],
)
def test_the_rows_of_the_design(server: Server, noted: Noted, seen: Seen, action: Action) -> None:
    assert decide(server, noted, seen) is action
