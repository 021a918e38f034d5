"""What a spec may ask for."""

import pytest

from agent.model.capacity import Demand
from agent.model.errors import InvalidInputError
from agent.model.spec import parse_spec

NAMED = "local-container"


@pytest.mark.parametrize(
    "arguments",
    [
        {"cpus": -1},
        {"cpus": "-0.5"},
        {"cpus": "nan"},
        {"cpus": "inf"},
        {"cpus": float("nan")},
        {"cpus": "1e400"},
        {"memory": "1" * 400},
        {"memory": 10**30},
        {"gpus": "1" * 30},
    ],
)
def test_less_than_nothing_and_more_than_there_is_are_refused(arguments) -> None:
    """A negative share would be given to other jobs, over and above what the machine has."""
    with pytest.raises(InvalidInputError):
        parse_spec({"resource_args": {NAMED: arguments}}).demand(NAMED)


@pytest.mark.parametrize("resources", [{"cpus": float("inf")}, {"gpus": 10**30}])
def test_the_same_holds_for_what_is_asked_of_any_runner(resources) -> None:
    with pytest.raises(InvalidInputError):
        parse_spec({"resources": resources}).demand(NAMED)


@pytest.mark.parametrize(
    "arguments",
    [
        {"cpu": 4, "m": "8g", "gpus": 2},
        {"--cpus": "4", "--memory": "8g", "--gpus": "2"},
        {"CPU": 4, "-m": "8g", "GPUs": 2},
    ],
)
def test_every_spelling_that_a_runner_takes_is_counted(arguments) -> None:
    demand = parse_spec({"resource_args": {NAMED: arguments}}).demand(NAMED)
    assert demand == Demand(cpus=4, memory=8 * 1024**3, gpus=2)


def test_zero_is_no_demand() -> None:
    demand = parse_spec({"resource_args": {NAMED: {"cpus": "0", "memory": "0"}}}).demand(NAMED)
    assert (demand.cpus or 0, demand.memory or 0, demand.gpus) == (0, 0, 0)
