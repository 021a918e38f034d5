"""Schemas of strangers: what they may say, and that no check of one is without bounds."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.json_schema import (
    MAX_DEPTH,
    MAX_TEXT,
    UnusableSchemaError,
    check_schema,
    shared_steps,
    violations,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


def broken(schema: Any, value: Any, most: int = 10) -> list[tuple[str, str]]:
    return [
        (".".join(map(str, each.path)), each.keyword) for each in violations(schema, value, most)
    ]


def test_what_a_schema_says_is_checked_at_every_depth() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.org/job.json",
        "type": "object",
        "definitions": {"rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}},
        "properties": {
            "lr": {"$ref": "#/definitions/rate"},
            "net": {"type": "object", "properties": {"depth": {"type": "integer"}}},
            "name": {"pattern": "^[a-z]+$"},
            "tags": {"uniqueItems": True},
            "mode": {"enum": ["a", 1, None]},
        },
        "patternProperties": {"^x_": {"type": "string"}},
        "additionalProperties": False,
        "required": ["lr"],
    }
    good = {"lr": 0.5, "net": {"depth": 2}, "name": "ab", "tags": [1, True], "mode": 1.0, "x_a": ""}
    assert broken(schema, good) == []
    assert broken(schema, {"lr": 2}) == [("lr", "maximum")]
    assert broken(schema, {}) == [("", "required")]
    assert broken(schema, good | {"net": {"depth": "x"}}) == [("net.depth", "type")]
    assert broken(schema, good | {"name": "AB"}) == [("name", "pattern")]
    assert broken(schema, good | {"tags": [1, 1.0]}) == [("tags", "uniqueItems")]
    assert broken(schema, good | {"mode": True}) == [("mode", "enum")]
    assert broken(schema, good | {"x_a": 1}) == [("x_a", "type")]
    assert broken(schema, good | {"y": 1}) == [("", "additionalProperties")]


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:9/schema.json",
        "https://json-schema.org/draft/2020-12/schema",
        "file:///etc/passwd",
        "//127.0.0.1/x",
        "other.json#/a",
        "urn:x",
        "#anchor",
        "",
    ],
)
@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef", "$recursiveRef"])
def test_a_reference_out_of_the_schema_is_refused_before_any_value_comes(
    keyword: str, target: str
) -> None:
    for schema in ({keyword: target}, {"properties": {"a": {"allOf": [{keyword: target}]}}}):
        with pytest.raises(UnusableSchemaError) as refused:
            check_schema(schema)
        assert refused.value.place[-1] == keyword


def test_a_reference_to_nothing_is_named() -> None:
    with pytest.raises(UnusableSchemaError, match=r"/\$defs/missing', which is not"):
        violations({"$ref": "#/$defs/missing"}, 1)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$id": "http://127.0.0.1/", "$ref": "#"}}},
        {"$anchor": "x"},
        {"$dynamicAnchor": "x"},
        {"$vocabulary": {"http://127.0.0.1/": True}},
        {"unevaluatedProperties": {}},
        {"unevaluatedItems": False},
    ],
)
def test_other_ways_to_name_a_schema_do_not_exist(schema: Any) -> None:
    with pytest.raises(UnusableSchemaError):
        check_schema(schema)


def test_names_of_properties_and_data_are_no_keywords() -> None:
    schema = {
        "properties": {"$ref": {"type": "string"}, "$id": {}, "pattern": {"const": {"$ref": "x"}}},
        "default": {"pattern": "(", "$ref": "http://example.org"},
    }
    assert broken(schema, {"$ref": "x", "$id": 1, "pattern": {"$ref": "x"}}) == []


@pytest.mark.parametrize("pattern", ["^(a+)+$", "(a|a)*$", "(.*)*x", "(a?){50}a{50}"])
def test_regular_expressions_cannot_backtrack(pattern: str) -> None:
    long = "a" * 5000 + "!"
    assert broken({"pattern": f"^(?:{pattern})$"}, long) == [("", "pattern")]
    members = {"patternProperties": {f"^(?:{pattern})$": False}, "additionalProperties": False}
    assert broken(members, {long: 1}) == [("", "additionalProperties")]


@pytest.mark.parametrize("pattern", ["(?=a)", r"(a)\1", "(?<=a)b", "(", "a{1000}{1000}", "*"])
@pytest.mark.parametrize(
    "where", [lambda p: {"pattern": p}, lambda p: {"patternProperties": {p: {}}}]
)
def test_regular_expressions_that_need_backtracking_are_refused(where: Any, pattern: str) -> None:
    with pytest.raises(UnusableSchemaError, match="regular expression"):
        check_schema({"items": where(pattern)})


def doubling(keyword: str, levels: int) -> dict[str, Any]:
    """Each level applies the next one twice."""
    definitions: dict[str, Any] = {f"d{levels}": {"type": "integer"}}
    for level in range(levels):
        twice = [{"$ref": f"#/$defs/d{level + 1}"}] * 2
        below: Any = {"if": twice[0], "then": twice[1]} if keyword == "if" else {keyword: twice}
        definitions[f"d{level}"] = below
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf", "if"])
def test_doubling_references_run_out_of_steps(keyword: str) -> None:
    value = "no integer" if keyword in {"anyOf", "oneOf"} else 1
    with pytest.raises(UnusableSchemaError, match="steps"):
        violations(doubling(keyword, 40), value)
    many = doubling(keyword, 3)
    many["items"] = {"$ref": many.pop("$ref")}
    with pytest.raises(UnusableSchemaError, match="steps"):
        violations(many, [value] * 100_000, most=200_000)


def test_a_doubling_at_each_depth_of_the_value_runs_out_of_steps() -> None:
    below = {"properties": {"a": {"$ref": "#"}}}
    value: Any = 1
    for _ in range(40):
        value = {"a": value}
    with pytest.raises(UnusableSchemaError, match="steps"):
        violations({"allOf": [below, below]}, value)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    ],
)
def test_a_schema_that_refers_to_itself_ends(schema: Any) -> None:
    with pytest.raises(UnusableSchemaError, match=r"without end|steps"):
        violations(schema, 1)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"uniqueItems": True}, [{"a": n} for n in range(200_000)]),
        ({"items": {"enum": [{"a": n} for n in range(400)]}}, [{"a": -1}] * 5000),
        ({"items": {"enum": ["x" * 50_000, "y"]}}, ["x" * 49_999] * 50_000),
        ({"items": {"required": [str(n) for n in range(3000)]}}, [{}] * 5000),
        ({"items": {"properties": {str(n): {} for n in range(500)}}}, [{}] * 50_000),
        ({"anyOf": [{"enum": [n]} for n in range(300)]}, "x" * 5_000_000),
        ({"items": {"minLength": 3}}, ["a"] * 5_000_000),
        ({"propertyNames": {"pattern": "^(a|b)*$"}}, {"a" * n: 1 for n in range(6000)}),
        ({"contains": {"const": 1}, "minContains": 0}, [0] * 2_000_000),
    ],
    ids=[
        "unique", "enum-many", "enum-large", "required", "properties", "messages", "items",
        "names", "contains",
    ],
)  # fmt: skip
def test_much_work_is_paid_from_the_same_budget(schema: Any, value: Any) -> None:
    with pytest.raises(UnusableSchemaError, match="steps"):
        violations(schema, value, most=10_000_000)


@pytest.mark.parametrize(
    "schema",
    [
        {"required": [{"a": n} for n in range(20_000)]},
        {"type": [str(n) for n in range(30_000)]},
        {"enum": [{"a": n} for n in range(20_000)]},
        {"properties": {str(n): {"type": "string"} for n in range(10_000)}},
        {"allOf": [{}] * 80_000},
    ],
    ids=["required", "type", "enum", "properties", "allOf"],
)
def test_a_large_schema_is_looked_at_within_the_budget(schema: Any) -> None:
    """Accepted or refused, the steps were counted: this ends."""
    with suppress(UnusableSchemaError):
        check_schema(schema)


def test_size_and_depth_of_a_schema_are_limited() -> None:
    with pytest.raises(UnusableSchemaError, match="characters"):
        check_schema({"description": "x" * MAX_TEXT})
    deep: Any = {}
    for _ in range(MAX_DEPTH):
        deep = {"not": deep}
    with pytest.raises(UnusableSchemaError, match="levels deep"):
        check_schema({"not": deep})
    for _ in range(5000):
        deep = {"not": deep}
    with pytest.raises(UnusableSchemaError):
        check_schema(deep)


@pytest.mark.parametrize("value", [10**400, -(10**400), 1e308, float("inf"), float("nan")])
@pytest.mark.parametrize("rule", [{"multipleOf": 1e-300}, {"multipleOf": 0.1}, {"maximum": 1.5}])
def test_numbers_beyond_every_size_are_answered(rule: Any, value: Any) -> None:
    with suppress(UnusableSchemaError):
        violations(rule, value)


def test_a_number_of_the_schema_beyond_64_bits_is_refused() -> None:
    with pytest.raises(UnusableSchemaError, match="64 bits"):
        check_schema({"multipleOf": 10**40})


def test_a_nested_dialect_does_not_leave_the_budget() -> None:
    """The library takes another validator, without limits, for a part with `$schema`."""
    part = {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^(a+)+$"}
    schema = {"items": {"allOf": [part, doubling("allOf", 40)]}}
    with pytest.raises(UnusableSchemaError):
        violations(schema, ["a" * 64 + "!"], most=100)
    assert broken({"items": part}, ["a" * 64 + "!"]) == [("0", "pattern")]


def test_several_checks_can_share_one_budget() -> None:
    schema, value = {"items": {"type": "integer"}}, [1] * 50
    with shared_steps(1000):
        for _ in range(9):
            violations(schema, value)
        with pytest.raises(UnusableSchemaError, match="steps"):
            _ = [violations(schema, value) for _ in range(20)]
    assert broken(schema, value) == []


@given(JSON, JSON)
def test_anything_is_checked_or_refused(schema: Any, value: Any) -> None:
    with suppress(UnusableSchemaError):
        check_schema(schema)
        found = violations(schema, value, most=5)
        json.dumps([each.value for each in found])
