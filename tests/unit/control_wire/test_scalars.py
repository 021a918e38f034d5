"""Scalars on the wire."""

import math
from datetime import datetime, timedelta, timezone

import pytest
from ariadne import QueryType, make_executable_schema
from graphql import graphql_sync

from agent.control.graphql.scalars import SCALARS


@pytest.fixture
def echo():
    query = QueryType()
    got = []

    def keep(_root, _info, value=None):
        got.append(value)
        return value

    for name in ("json", "text", "long"):
        query.set_field(name, keep)
    zone = timezone(timedelta(hours=2))
    query.set_field("time", lambda *_: datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=zone))
    schema = make_executable_schema(
        "scalar JSON scalar JSONString scalar DateTime scalar Int64 scalar Duration "
        "type Query { json(value: JSON): JSON, text(value: JSONString): JSONString, "
        "long(value: Int64): Int64, time: DateTime }",
        query,
        *SCALARS,
    )

    def run(text, **variables):
        result = graphql_sync(schema, text, variable_values=variables)
        return result, got

    return run


def test_json_passes_as_it_is_in_variables_and_in_the_text(echo):
    value = {"a": [1, None, {"b": "x"}]}
    assert echo("query ($v: JSON) { json(value: $v) }", v=value)[0].data == {"json": value}
    assert echo('{ json(value: {a: [1, "x"]}) }')[0].data == {"json": {"a": [1, "x"]}}


def test_a_json_string_is_decoded_for_resolvers_and_encoded_for_clients(echo):
    result, got = echo("query ($v: JSONString) { text(value: $v) }", v='{"a": NaN, "b": -Infinity}')
    assert math.isnan(got[0]["a"])
    assert result.data == {"text": '{"a":NaN,"b":-Infinity}'}


@pytest.mark.parametrize("value", ["{", "", "[" * 100_000, 7, {"a": 1}])
def test_a_json_string_without_json_is_refused(echo, value):
    assert echo("query ($v: JSONString) { text(value: $v) }", v=value)[0].errors


def test_times_are_utc(echo):
    assert echo("{ time }")[0].data == {"time": "2026-01-02T01:04:05.678Z"}


@pytest.mark.parametrize(
    ("given", "kept"), [(2**40, 2**40), ("12", 12), (-(2**63), -(2**63)), (0, 0)]
)
def test_long_integers_pass(echo, given, kept):
    result = echo("query ($v: Int64) { long(value: $v) }", v=given)[0]
    assert result.data == {"long": kept}


@pytest.mark.parametrize("value", [2**63, 1.5, "x", True, [1]])
def test_other_values_are_no_long_integers(echo, value):
    assert echo("query ($v: Int64) { long(value: $v) }", v=value)[0].errors
