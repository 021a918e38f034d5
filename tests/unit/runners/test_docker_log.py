"""From the engine's frames to bytes at offsets, rotation included."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.docker.log_frames import FramePart, LogFrameDecoder
from agent.model.errors import JobError
from agent.ports.runner import UNKNOWN_MISSING
from agent.runners.docker.log_marks import LogCursor, LogMarks

MIB = 1024**2


def stamp(number: int) -> bytes:
    return b"2026-01-02T03:04:%02d.%09dZ" % divmod(number, 10**9)


def frame(number: int, data: bytes, pipe: int = 1) -> bytes:
    payload = stamp(number) + b" " + data
    return bytes([pipe, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 5000)))
def test_frames_are_the_same_however_the_stream_is_cut(
    lines: list[bytes], places: list[int]
) -> None:
    stream = b"".join(frame(number, line) for number, line in enumerate(lines))
    frames = LogFrameDecoder()
    entries = [entry for chunk in cut(stream, places) for entry in frames.feed(chunk)]
    assert b"".join(entry.data for entry in entries) == b"".join(lines)
    assert [entry.stamp for entry in entries if entry.first] == [
        stamp(number) for number in range(len(lines))
    ]


def test_a_frame_of_any_size_is_passed_on_as_it_comes() -> None:
    frames = LogFrameDecoder()
    head, rest = frame(1, b"x" * MIB)[:100], frame(1, b"x" * MIB)[100:]
    assert sum(len(entry.data) for entry in frames.feed(head)) == 100 - 39
    assert sum(len(entry.data) for entry in frames.feed(rest)) == MIB - 61


def test_a_stream_without_time_stamps_is_an_error() -> None:
    with pytest.raises(JobError, match="cannot be read"):
        list(LogFrameDecoder().feed(b"\x01\0\0\0\0\0\0\x05hello" * 10))


def taken(cursor: LogCursor, frames: list[tuple[int, bytes]]) -> list[tuple[int, bytes, int]]:
    pieces = [cursor.take(FramePart(stamp(number), data, first=True)) for number, data in frames]
    return [(piece.position.skip, piece.data, piece.missing) for piece in pieces if piece]


def test_bytes_before_the_wanted_offset_are_skipped() -> None:
    log = [(1, b"one\n"), (2, b"two\n"), (3, b"three\n")]
    assert taken(LogCursor(LogMarks(None), 5), log) == [(5, b"wo\n", 0), (8, b"three\n", 0)]


def read(marks: LogMarks, count: int) -> list[tuple[int, bytes]]:
    """A log of frames of 600 KiB, read by an agent that notes marks."""
    log = [(number, b"%d" % number * (600 * 1024)) for number in range(1, count + 1)]
    taken(LogCursor(marks, 0), log)
    return log


def test_a_rotated_log_is_continued_from_a_mark_without_loss(tmp_path: Path) -> None:
    marks = LogMarks(tmp_path / "marks")
    log = read(marks, 8)
    marks.save()
    again = LogMarks(tmp_path / "marks")
    again.load()
    size = 600 * 1024
    pieces = taken(LogCursor(again, 7 * size + 10), log[2:])
    assert pieces == [(7 * size + 10, b"8" * (size - 10), 0)]


def test_bytes_lost_between_the_offset_and_a_mark_are_counted() -> None:
    marks = LogMarks(None)
    log = read(marks, 8)
    size = 600 * 1024
    first = taken(LogCursor(marks, 100), log[4:])[0]
    assert first == (4 * size, b"5" * size, 4 * size - 100)


def test_a_log_that_begins_after_all_marks_says_that_something_is_missing(tmp_path: Path) -> None:
    marks = LogMarks(tmp_path / "marks")
    read(marks, 3)
    log = [(50, b"late\n"), (51, b"later\n")]
    wanted = 3 * 600 * 1024 - 10
    pieces = taken(LogCursor(marks, wanted), log)
    assert pieces == [
        (wanted + 1, b"late\n", UNKNOWN_MISSING),
        (wanted + 6, b"later\n", 0),
    ]
    marks.save()
    # Also an agent that was ended before it stored anything of them says so, and one that
    # stored the first line reads no line twice.
    for known in (marks, LogMarks(tmp_path / "marks")):
        if known is not marks:
            known.load()
        assert taken(LogCursor(known, wanted), log) == pieces
        assert taken(LogCursor(known, wanted + 6), log) == pieces[1:]


def test_offsets_behind_a_gap_are_after_all_marks() -> None:
    marks = LogMarks(None)
    read(marks, 3)
    pieces = taken(LogCursor(marks, 1000), [(50, b"late\n")])
    assert pieces == [(2 * 600 * 1024 + 1, b"late\n", UNKNOWN_MISSING)]


def test_marks_of_two_readers_in_one_file_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "marks"
    for last in (8, 3):
        marks = LogMarks(path)
        read(marks, last)
        marks.save()
    with path.open("ab") as file:
        file.write(b"99 cut")
    again = LogMarks(path)
    again.load()
    assert again.first == stamp(1)
    assert again.last == stamp(7)
