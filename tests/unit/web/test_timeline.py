from datetime import UTC, datetime, timedelta

import pytest

from agent.control.store.history import EventRecord
from agent.control.web.items import steps
from agent.model.phase import TERMINAL, Phase

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def history(*phases: Phase) -> list[EventRecord]:
    return [
        EventRecord(START + timedelta(seconds=n), phase, 1, 1, None, None)
        for n, phase in enumerate(phases)
    ]


def kinds(phase: Phase, *before: Phase) -> list[str]:
    return [step.kind for step in steps(phase, history(*before))]


def test_a_queued_item_has_all_ahead_of_it():
    assert kinds(Phase.QUEUED, Phase.QUEUED) == ["now", *["ahead"] * 4]


def test_a_running_item_has_passed_every_step_before():
    way = (Phase.QUEUED, Phase.LEASED, Phase.PREPARING, Phase.PERMITTED, Phase.STARTED)

    assert kinds(Phase.STARTED, *way) == ["done", "done", "done", "now", "ahead"]


def test_steps_that_a_refused_item_never_reached_stay_ahead():
    way = (Phase.QUEUED, Phase.LEASED, Phase.PREPARING, Phase.REFUSED)

    assert kinds(Phase.REFUSED, *way) == ["done", "done", "ahead", "ahead", "end"]


@pytest.mark.parametrize("phase", sorted(TERMINAL))
def test_the_last_step_names_the_phase_that_an_item_ended_in(phase):
    last = steps(phase, history(Phase.QUEUED, phase))[-1]

    assert (last.text, last.at) == (phase.word, START + timedelta(seconds=1))


def test_a_retried_item_shows_only_its_latest_attempt():
    way = (Phase.QUEUED, Phase.LEASED, Phase.PREPARING, Phase.ERRORED, Phase.QUEUED)
    shown = steps(Phase.QUEUED, history(*way))

    assert [step.kind for step in shown] == ["now", *["ahead"] * 4]
    assert shown[0].at == START + timedelta(seconds=4)


def test_a_second_event_of_a_phase_does_not_move_its_time():
    shown = steps(Phase.PREPARING, history(Phase.QUEUED, Phase.PREPARING, Phase.PREPARING))

    assert shown[1].at == START + timedelta(seconds=1)
