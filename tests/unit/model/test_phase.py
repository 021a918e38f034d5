"""The words that users see for phases."""

import pytest

from agent.model.phase import PHASE_WORDS, Phase, phases_named


def test_every_phase_has_a_word_in_the_order_of_an_items_life() -> None:
    assert " ".join(PHASE_WORDS) == (
        "waiting preparing pending running succeeded failed stopped preempted lost refused error"
    )


@pytest.mark.parametrize("phase", list(Phase))
def test_a_phase_is_found_by_its_word_and_by_its_name(phase: Phase) -> None:
    assert phase in phases_named(phase.word)
    assert phase in phases_named(phase.value)


@pytest.mark.parametrize(
    ("text", "phases"),
    [
        ("Preparing", (Phase.LEASED, Phase.PREPARING)),
        ("leased", (Phase.LEASED,)),
        ("started", (Phase.STARTED,)),
        ("pending", (Phase.PERMITTED,)),
        ("flying", ()),
    ],
)
def test_a_word_may_stand_for_several_phases(text: str, phases: tuple[Phase, ...]) -> None:
    assert phases_named(text) == phases
