"""Exactly one start, checked over every interleaving of a model with at most so many faults."""

from dataclasses import replace

import pytest

from tests.faults.starts.decisions import before_issue_11, present
from tests.faults.starts.search import search
from tests.faults.starts.world import Setup

ONE = Setup(present, faults=2)
SETUPS = {
    "one agent": ONE,
    "a user stops": replace(ONE, stops=True),
    "lost attempts are retried": replace(ONE, on_lost="retry"),
    "two agents with an engine each": replace(ONE, agents=2),
    "two agents on one engine": replace(ONE, agents=2, shared_engine=True),
    "two agents on one engine, and errors": replace(ONE, agents=2, shared_engine=True, errors=True),
}


@pytest.mark.parametrize(
    "faults", [2, pytest.param(3, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)
@pytest.mark.parametrize("name", SETUPS)
def test_no_interleaving_starts_twice_tells_an_untruth_or_is_stuck(name: str, faults: int) -> None:
    found = search(replace(SETUPS[name], faults=faults))
    assert found.violation is None, "\n".join((found.violation, *found.way))
    assert found.states > 3_000


@pytest.mark.parametrize(
    ("rules", "violation"),
    [
        (replace(ONE, decide=before_issue_11), "attempt 1 was started 2 times"),
        (replace(ONE, repeats_start=True), "attempt 1 was started 2 times"),
        (
            replace(ONE, trusts_every_exit_code=True),
            "attempt 1 was told with an exit code of the engine",
        ),
    ],
)
def test_the_search_finds_the_faults_that_the_rules_exclude(rules: Setup, violation: str) -> None:
    """Each rule of design §5.5 in turn is taken back."""
    assert search(rules).violation == violation
