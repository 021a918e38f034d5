"""Grids of sweeps: their combinations, and what no grid can have."""

import json

import pytest

from agent.control.services.sweep_config import Metric, SweepConfig, combination, combinations
from agent.model.errors import InvalidInputError


def grid(**parameters: object) -> str:
    return json.dumps({"method": "grid", "parameters": parameters})


def test_each_combination_comes_once_with_nested_parameters_and_whole_ranges() -> None:
    text = grid(
        a={"values": [1, "1"]},
        model={"parameters": {"depth": {"min": 2, "max": 4}, "kind": {"value": None}}},
    )
    document = SweepConfig.parse(text).document
    assert combinations(document) == 6
    found = [combination(document, number) for number in range(6)]
    assert found == [
        {"a": {"value": a}, "model": {"value": {"depth": depth, "kind": None}}}
        for a in (1, "1")
        for depth in (2, 3, 4)
    ]


def test_the_clients_yaml_is_understood() -> None:
    metric = "metric:\n  goal: maximize\n  name: s\n"
    text = f"method: grid\n{metric}parameters:\n  x:\n    value: 1.0e-05\n"
    document = SweepConfig.parse(text).document
    assert combination(document, 0) == {"x": {"value": 1e-5}}
    assert Metric.of(document) == Metric("s", maximized=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: bayes\nparameters: {x: {value: 1}}", "'bayes'; this server searches grids only"),
        ("parameters: {x: {value: 1}}", "searches grids only"),
        ("method: [", "not valid YAML"),
        ("- 1", "config:1"),
        ("method: grid", "no `parameters`"),
        (grid(x={"values": []}), "'x' has no values"),
        (grid(x={"min": 0.0, "max": 1.0}), "'x' has no values"),
        (grid(x={"min": 3, "max": 1}), "'x' has no values"),
        (grid(x={"min": False, "max": True}), "'x' has no values"),
        (grid(x={"min": 1, "max": 9, "distribution": "q_normal"}), "'x' has no values"),
        (grid(x={"parameters": {}}), "'x' has no values"),
        (grid(x=1), "'x' has no values"),
        (grid(x={"min": 0, "max": 10**6}), "more than 1000000"),
        (grid(x={"min": 0, "max": 2**63 - 1}), "more than 1000000"),
        (grid(x={"min": 0, "max": 10**30}), "integer"),
        (
            json.dumps({"method": "grid", "metric": 1, "parameters": {"x": {"value": 1}}}),
            "`metric` needs",
        ),
        ("a: " + "x" * 200_000, "up to 131072 characters"),
    ],
)
def test_what_no_grid_can_have_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        SweepConfig.parse(text)
