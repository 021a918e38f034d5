"""Updates of a run's streams: what their bodies say, and which lines of chunks count."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.files.run_streams import merge, mergeable
from agent.control.services.history_keys import counted_keys, merged_keys, wandb_keys
from agent.control.services.stream_update import (
    CHUNK_SIZE,
    StreamLines,
    chunked,
    only_new,
    parse_update,
    segments,
)
from agent.control.store.run_streams import ChunkRecord
from agent.model.errors import InvalidInputError


def _body(**sent) -> bytes:
    return json.dumps(sent).encode()


def _files(name: str, offset: int, *content: str) -> bytes:
    return _body(files={name: {"offset": offset, "content": list(content)}})


def test_history_lines_keep_their_text_and_name_their_step() -> None:
    lines = ['{"_step": 7, "a": NaN}', '{"a":1e3}', '{"_step":9.0,"b":"\\ud800"}']
    update = parse_update(_files("wandb-history.jsonl", 3, *lines))
    (history,) = update.streams
    assert [line.decode() for line in history.lines] == lines
    assert list(history.steps) == [7, 4, 9]
    assert (history.first_line, history.end_line) == (3, 6)


def test_text_that_is_no_unicode_is_replaced_and_newlines_end_no_line() -> None:
    update = parse_update(_files("output.log", 0, "a\udc80b", "c\nd"))
    assert list(update.streams[0].lines) == [b"a?b", b"c d"]


def test_the_end_of_a_run_and_its_summary() -> None:
    update = parse_update(_body(complete=True, exitcode=3))
    assert (update.exit_code, update.streams, update.summary) == (3, (), None)
    assert parse_update(_body(complete=True, failed=False)).exit_code == 0
    assert parse_update(_body(complete=True, failed=True)).exit_code == 1
    assert parse_update(b"{}").exit_code is None
    assert parse_update(_body(preempting=True)).preempting
    update = parse_update(_files("wandb-summary.json", 0, '{"a": 1}', '{"b": Infinity}'))
    assert update.summary == {"b": float("inf")}


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b"[" * 100_000,
        _body(files=[1]),
        _body(files={"output.log": 1}),
        _body(files={"output.log": {"content": [1]}}),
        _body(files={"output.log": {"content": ["a"], "offset": -1}}),
        _body(files={"output.log": {"content": ["a"], "offset": 2**53 - 1}}),
        _body(files={"output.log": {"content": ["a"], "offset": True}}),
        _files("wandb-history.jsonl", 0, "no json"),
        _files("wandb-history.jsonl", 0, "[]"),
        _files("wandb-events.jsonl", 0, "1"),
        _files("wandb-summary.json", 0, "null"),
        _body(complete=True, exitcode=2**31),
    ],
)
def test_a_body_that_cannot_be_stored_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_update(body)


def test_chunks_hold_whole_lines_of_any_length() -> None:
    lines = [b"x" * size for size in (10, CHUNK_SIZE * 3, 5, CHUNK_SIZE - 4, 1)]
    parts = chunked(StreamLines("output", 4, lines, range(4, 9)))
    assert [(part.first_line, part.end_line) for part in parts] == [(4, 6), (6, 8), (8, 9)]
    assert b"".join(part.data or b"" for part in parts) == b"".join(each + b"\n" for each in lines)
    assert all(part.size == len(part.data or b"") for part in parts)


_WRITES = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=8)


def _written(writes: list[tuple[int, int]]) -> tuple[dict[int, bytes], list[ChunkRecord]]:
    """What lines should be there, and the chunks as they are stored."""
    expected: dict[int, bytes] = {}
    stored: list[ChunkRecord] = []
    for version, (first, count) in enumerate(writes, 1):
        lines = [f"{version}:{number}".encode() for number in range(first, first + count)]
        expected |= dict(enumerate(lines, first))
        data = b"".join(line + b"\n" for line in lines)
        end = first + count
        stored.append(
            ChunkRecord(first, end, first, end - 1, True, len(data), data, version=version)
        )
    return expected, sorted(stored, key=lambda chunk: (chunk.first_line, chunk.version))


def _read(chunks: list[ChunkRecord]) -> list[tuple[int, bytes]]:
    return [
        pair
        for segment in segments(chunks)
        for pair in enumerate(segment.lines(segment.chunk.data or b""), segment.first_line)
    ]


@given(_WRITES)
def test_each_line_is_read_once_in_order_as_it_was_written_last(writes) -> None:
    expected, stored = _written(writes)
    assert _read(stored) == sorted(expected.items())


@given(_WRITES)
def test_merged_chunks_have_the_same_lines(writes) -> None:
    expected, stored = _written(writes)
    small = mergeable(stored)
    assert small == stored
    if small:
        merged = merge(small)
        assert _read(merged) == sorted(expected.items())
        assert len(merged) <= len(small)


def test_chunks_beside_a_large_one_with_the_same_lines_are_not_merged() -> None:
    def chunk(first: int, end: int, data: bytes | None) -> ChunkRecord:
        return ChunkRecord(first, end, first, end, True, 10, data)

    free, touching, large = chunk(0, 3, b""), chunk(5, 8, b""), chunk(7, 9, None)
    assert mergeable([free, touching, large]) == [free]


def test_keys_are_counted_by_type_with_dots_for_nested_ones() -> None:
    rows = [
        {"loss": 3, "d": {"a": 1, "b": {"c": "x"}}, "img": {"_type": "image-file", "path": "p"}},
        {"loss": float("nan"), "d": {"a": 2}, "flag": True, "none": None, "l": [1]},
    ]
    found = wandb_keys(merged_keys(counted_keys(rows[:1]), counted_keys(rows[1:])), 1)
    assert found["lastStep"] == 1
    seen = {key: (one["typeCounts"], one["previousValue"]) for key, one in found["keys"].items()}
    assert seen["loss"] == ([{"type": "number", "count": 2}], "NaN")
    assert seen["d.a"] == ([{"type": "number", "count": 2}], 2)
    assert seen["d.b.c"] == ([{"type": "string", "count": 1}], "x")
    assert seen["img"][0] == [{"type": "image-file", "count": 1}]
    assert found["keys"]["d.a"]["monotonic"]
    assert merged_keys(counted_keys(rows), {}) == counted_keys(rows)
    assert wandb_keys({}, None) == {"keys": {}, "lastStep": -1, "sets": []}


def test_only_lines_that_are_not_stored_are_counted() -> None:
    update = parse_update(_files("wandb-history.jsonl", 2, '{"a":1}', '{"a":2}', '{"b":3}'))
    stored = [ChunkRecord(0, 3, 0, 2, True, 1), ChunkRecord(4, 9, 4, 8, True, 1)]
    assert list(only_new(update.streams[0], stored)) == ["a"]
    assert only_new(update.streams[0], stored)["a"]["last"] == 2
