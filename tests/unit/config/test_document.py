"""JSON is JSON, YAML follows the core schema of YAML 1.2; what JSON cannot hold is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.config.document import (
    format_yaml,
    parse_document,
    parse_json,
    parse_value,
    read_document,
)
from agent.model.errors import ConfigError

DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]))
    | st.sampled_from(["1e-4", "yes", "0o7", "010", "2024-01-01", "1:30", "<<", "=", "~", ".5"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text("ab1~<.", max_size=4), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("+3", 3),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("NaN", "NaN"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00Z"),
        ("'1e-4'", "1e-4"),
        ("!!str 12", "12"),
        ("!!float 3", 3.0),
        ("=", "="),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(written: str, value: object) -> None:
    read = parse_document(f"when: {written}\n", "x.yaml").data["when"]
    assert (type(read), read) == (type(value), value)


def test_keys_that_look_like_dates_or_switches_are_strings() -> None:
    assert parse_document("on: 1\n2024-01-01: 2\n", "x.yaml").data == {"on": 1, "2024-01-01": 2}


@pytest.mark.parametrize("name", ["x.json", "x.yaml", "--config"])
def test_json_is_read_as_json_with_the_line_of_each_key(name: str) -> None:
    text = '{\n\t"lr": 1e-4,\n\t"deep": [1,\n\t\t{"a:b": "x\\ud83d\\ude00"}],\n\t"none": {}}'
    document = parse_document(text, name)
    assert document.data == json.loads(text)
    assert document.data["lr"] == 1e-4
    assert document.location(("lr",)) == f"{name}:2"
    assert document.location(("deep", 1, "a:b")) == f"{name}:4"
    assert document.location(("none", "more")) == f"{name}:5"


def test_a_flow_mapping_of_yaml_is_read_where_json_is_not_required() -> None:
    assert parse_document("{lr: 1e-4, tags: [a, b],}", "-c").data == {
        "lr": 1e-4,
        "tags": ["a", "b"],
    }
    with pytest.raises(ConfigError, match=r"x\.json:1: not valid JSON"):
        parse_document("{lr: 1e-4}", "x.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a:\n  1: x", ":2: `a`: the key 1 is not a string."),
        ("true: x", ":1: the key true is not a string."),
        ("? [a]\n: x", ":1: a key that is a list or a mapping."),
        ("a: 1\nb:\n  - .nan", ":3: `b[0]`: `.nan` is not a number in JSON."),
        ("a: -.inf", "`a`: `-.inf` is not a number"),
        ("a: 1e999", "`a`: `1e999` is not a number"),
        ("a: !!binary aGk=", ":1: `a`: values of the tag `!!binary` have no form in JSON."),
        ("a: !!set {x, y}", "the tag `!!set`"),
        ("a: !!timestamp 2024-01-01", "the tag `!!timestamp`"),
        ("a: !!omap [x: 1]", "the tag `!!omap`"),
        ("a: !mine x", "the tag `!mine`"),
        ("a: !!int x", "`a`: `x` is not a valid int"),
        ("a: " + "1" * 5000, "has too many digits"),
        ("a: 1\na: 2", ":2: the key `a` occurs twice."),
        ("a: &x [*x]", "an alias that contains itself"),
        ("a: &x {<<: *x}", "an alias that contains itself"),
        ("a: {<<: 1}", "`<<` takes a mapping"),
        ("a: [" * 3000, "nested too deeply"),
        ('a: "\\ud800"', "a lone surrogate"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("- a", ":1: expected `key: value` lines."),
        ('{"a": 1,\n "a": 2}', ":2: the key `a` occurs twice."),
        ('{"a": {"b":\n NaN}}', ":2: `a.b`: `NaN` is not a JSON value."),
        ('{"a": [1,\n-Infinity]}', ":2: `a[1]`: `-Infinity` is not a JSON value."),
        ('{"a": 1e999}', "`a`: the number `1e999` is too large"),
        ('{"a": ' + "1" * 5000 + "}", "a number is too long"),
        ('{"a": "\\udc00"}', "`a`: it holds a lone surrogate"),
        ('{"a":' * 3000, "nested too deeply"),
        ('{"a": 1\n"b": 2}', ":2: not valid JSON: Expecting ',' delimiter."),
    ],
)
def test_what_json_cannot_hold_is_refused_with_line_and_key(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "x")
    assert says in str(caught.value)
    assert str(caught.value).startswith("x:")


def test_aliases_cannot_make_a_short_text_large() -> None:
    rows = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="aliases make it too large"):
        parse_document("\n".join(rows), "x")


def test_merged_keys_yield_to_own_ones_and_the_first_of_several_wins() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  x: 3\n  <<: [*a, *b]\n"
    document = parse_document(text, "f")
    assert document.data["c"] == {"x": 3, "y": 1, "z": 2}
    assert document.location(("c", "x")) == "f:4"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_document(file).data == {"a": 1}


@pytest.mark.parametrize("text", ['{"lr": 1e-4, // rate\n}', '{/* rate */ "lr": 1}'])
def test_a_comment_of_javascript_is_no_key(text: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse_document(text, "--config")
    assert "--config:1" in str(told.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("name", ["x.yaml", "x.json"])
def test_files_written_by_shells_of_windows_are_read(
    tmp_path: Path, encoding: str, name: str
) -> None:
    text = '{"lr": 1e-4,\r\n "name": "ä"}\r\n'
    mark = "" if encoding in {"utf-16", "utf-8-sig"} else "\ufeff"
    (tmp_path / name).write_bytes((mark + text).encode(encoding))
    assert read_document(tmp_path / name).data == {"lr": 1e-4, "name": "ä"}


def test_one_value_of_a_variable() -> None:
    assert [parse_value(text) for text in ("1e-3", "[a, 1]", "yes", "[")] == [
        1e-3,
        ["a", 1],
        "yes",
        "[",
    ]


@pytest.mark.parametrize("text", ["NaN", "1e999", '{"a": 1, "a": 2}', "[1,]", "[" * 9000])
def test_strict_json_says_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(text)


@given(DATA)
def test_what_is_written_as_yaml_is_read_back_alike_by_both_versions(value: Any) -> None:
    text = format_yaml({"key": value})
    assert parse_document(text, "x").data == {"key": value}
    assert yaml.safe_load(text) == {"key": value}


@given(DATA)
def test_json_is_read_as_the_json_module_reads_it(value: Any) -> None:
    assert parse_document(json.dumps({"k": value}), "x.json").data == {"k": value}
    assert parse_json(json.dumps(value)) == value
