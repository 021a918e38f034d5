"""Placeholders, and how layers are merged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.services.schema_checks import Check, NotCheckedError, Passed
from agent.control.services.spec_layers import (
    merge,
    parse_variables,
    render,
    resolve_values,
    template_problems,
)
from agent.model.errors import InvalidInputError

SCALARS = st.none() | st.booleans() | st.integers() | st.text()
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), JSON)


@given(SCALARS | st.lists(SCALARS) | st.dictionaries(st.text(), SCALARS))
def test_a_text_that_is_only_a_placeholder_takes_the_value_with_its_type(value) -> None:
    assert render({"a": ["{{ x }}"]}, {"x": value}) == {"a": [value]}


def test_a_placeholder_inside_a_text_becomes_text() -> None:
    values = {"n": 2, "s": "two", "b": True, "l": [1]}
    assert render("{{n}}-{{s}}-{{ b }}-{{l}}", values) == "2-two-true-[1]"


def test_unknown_placeholders_and_other_braces_stay() -> None:
    for text in ("{{unknown}}", "{{ }}", "{x}", "${x}", "{{unknown}} {{x}}x"):
        assert render(text, {"x": 1}) == text.replace("{{x}}", "1")


@given(JSON)
def test_without_variables_nothing_changes(value) -> None:
    assert render(value, {}) == value


def test_a_value_is_never_rendered_again() -> None:
    assert render("{{a}}", {"a": "{{b}}", "b": 1}) == "{{b}}"


def test_values_come_from_the_submitter_else_from_the_schema() -> None:
    variables = parse_variables(
        {"a": {"schema": {"default": 1}}, "b": {"schema": {"type": "string"}}}
    )
    assert resolve_values(variables, {"b": "x"}) == {"a": 1, "b": "x"}
    assert parse_variables(None) == {}


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"$ref": "http://localhost:1/schema.json"}, "$ref"),
        ({"items": {"$ref": "file:///etc/passwd"}}, "items.$ref"),
        ({"pattern": r"(a)\1"}, "pattern"),
        ({"type": "number", "maximum": "a"}, "maximum"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_its_place(schema, where) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_variables({"a": {"schema": schema}})
    assert f"`templateVariables.a.schema.{where}`: " in refused.value.message


def test_a_check_belongs_to_one_schema_and_one_value() -> None:
    """1 and `true` are equal in Python and not in JSON."""
    made = {
        Check("", "a", "", "", schema, value)
        for schema in ({"const": 1}, {"const": True})
        for value in (1, True)
    }
    assert len(made) == 4
    passed = Passed(frozenset({Check("", "a", "", "", {"const": 1}, 1)}))
    passed.require([Check("", "a", "", "", {"const": 1}, 1)])
    with pytest.raises(NotCheckedError):
        passed.require([Check("", "a", "", "", {"const": True}, 1)])


def test_template_problems_name_what_is_undeclared_and_what_is_unused() -> None:
    config = {"resource_args": {"kubernetes": {"a": ["{{x}}", {"b": "{{y}} {{x}}"}], "n": 1}}}
    assert template_problems(config, {"x": {}, "z": {}}) == (
        "`{{y}}` is used, and `templateVariables` does not declare it.",
        "`templateVariables.z` is declared, and no `{{z}}` uses it.",
    )


def test_objects_are_merged_and_all_else_is_replaced() -> None:
    base = {"a": {"x": 1, "y": [1]}, "b": 1, "c": 1}
    over = {"a": {"y": [2], "z": 3}, "b": None, "d": None, "c": {"n": 1}}
    assert merge(base, over) == {
        "a": {"x": 1, "y": [2], "z": 3},
        "b": 1,
        "c": {"n": 1},
        "d": None,
    }


@given(OBJECTS, OBJECTS)
def test_merging_changes_neither_and_keeps_every_key(base, over) -> None:
    before = repr((base, over))
    merged = merge(base, over)
    assert repr((base, over)) == before
    assert set(merged) == set(base) | set(over)
    assert merge(merged, over) == merged
