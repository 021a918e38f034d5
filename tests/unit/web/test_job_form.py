"""Forms of jobs: fields from schemas and types, and reading of what was entered."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.web.job_form import (
    OTHERS,
    Field,
    Sent,
    fields_of,
    read_object,
    read_parameters,
    without_fields,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def schema_of(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def sent(fields: tuple[Field, ...], **more: str) -> Sent:
    """The form as it is shown, sent back unchanged."""
    shown = {field.name: list(field.texts) for field in fields}
    return Sent(shown | {name: [text] for name, text in more.items()})


@pytest.mark.parametrize(
    ("property_", "kind"),
    [
        ({"type": "number"}, "number"),
        ({"type": "integer"}, "integer"),
        ({"type": "string"}, "text"),
        ({"type": "boolean"}, "choice"),
        ({"type": "string", "enum": ["a"]}, "choice"),
        ({"type": "array", "items": {"type": "string", "enum": ["a"]}}, "choices"),
        ({"type": "array", "items": {"type": "string"}}, "json"),
        ({"type": "object"}, "json"),
        ({}, "json"),
    ],
)
def test_a_propertys_schema_decides_its_field(property_: dict[str, Any], kind: str) -> None:
    (field,) = fields_of(schema_of(x=property_), {}, {})
    assert (field.kind, field.path) == (kind, ("x",))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("number", "1e-3", 0.001),
        ("number", " 2 ", 2),
        ("integer", "-7", -7),
        ("text", "3", "3"),
        ("json", '{"a": [1]}', {"a": [1]}),
    ],
)
def test_a_text_becomes_a_value_of_its_fields_kind(kind: Any, text: str, value: object) -> None:
    field = Field(("x",), kind, "x")
    assert read_parameters([field], {}, Sent({field.name: [text]})).config == {"x": value}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("number", "NaN"),
        ("number", "true"),
        ("number", "1,5"),
        ("integer", "1.5"),
        ("json", "{"),
        ("json", "[" * 100_000),
        ("choice", '"c"'),
        ("integer", "1_000"),
        ("integer", "\uff11\uff12"),
    ],
)
def test_an_invalid_value_gives_an_error_beside_the_field(kind: Any, text: str) -> None:
    field = Field(("x",), kind, "x", choices=('"a"',))
    read = read_parameters([field], {}, Sent({field.name: [text]}))
    assert read.has_errors
    assert "is not" in (read.fields[0].error or "")


def test_an_empty_field_is_left_out() -> None:
    fields = fields_of(schema_of(x={"type": "string"}), {}, {})
    assert read_parameters(fields, {}, Sent({fields[0].name: ["  "]})).config == {}


def test_a_field_below_what_is_no_object_is_refused() -> None:
    field = Field(("x", "y"), "integer", "x.y")
    read = read_parameters([field], {}, Sent({field.name: ["1"], OTHERS: ['{"x": 5}']}))
    assert "is not an object" in (read.fields[0].error or "")


def test_a_violation_of_no_field_is_shown_beside_the_further_parameters() -> None:
    schema = {"type": "object", "additionalProperties": False, "properties": {}}
    read = read_parameters([], schema, Sent({OTHERS: ['{"x": 5}']}))
    assert "additionalProperties" in (read.others_error or "")


@given(schema=JSON, types=JSON, last=st.dictionaries(st.text(max_size=6), JSON))
def test_fields_can_be_drawn_from_anything(schema: Any, types: Any, last: Any) -> None:
    drawn = fields_of(
        {"properties": {"a": {"properties": schema}, "b": {"enum": schema}}},
        {"params": {"type_map": types}},
        last,
    )
    assert len({field.name for field in drawn}) == len(drawn)


@given(last=st.dictionaries(st.sampled_from("abc") | st.text(max_size=4), JSON, max_size=5))
def test_a_form_that_is_sent_back_unchanged_gives_the_latest_parameters(last: Any) -> None:
    tree = {"params": {"type_map": {"a": {"wb_type": "number"}, "b": {"wb_type": "string"}}}}
    last = {key: value for key, value in last.items() if value not in ("", {}, [])}
    if not isinstance(last.get("a", 1), int) or isinstance(last.get("a"), bool):
        last["a"] = 1
    if isinstance(last.get("b"), str) and not last["b"].strip():
        del last["b"]
    fields = fields_of({}, tree, last)
    others = json.dumps(without_fields(fields, last))
    read = read_parameters(fields, {}, sent(fields, **{OTHERS: others}))
    assert not read.has_errors
    assert read.config == last


@given(text=st.text())
def test_any_text_is_an_object_or_gives_an_error(text: str) -> None:
    value, error = read_object(text.strip())
    assert isinstance(value, dict)
    assert (error is None) or error.endswith((".", "}."))
