"""Logs by offset, on a real folder."""

import asyncio
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.exceptions import BaseError
from obstore.store import MemoryStore

from agent.control.files.logs import LogKey, LogStore
from agent.control.files.storage import StorageFullError, open_folder
from agent.model.errors import ServerError

KEY = LogKey("aaaabbbbcccc", 1, "job")


async def _all(logs: LogStore, key: LogKey = KEY, offset: int = 0, limit: int | None = None):
    return b"".join([data async for data in logs.read(key, offset, limit)])


@pytest.fixture
async def logs(tmp_path):
    return LogStore(await open_folder(tmp_path / "data"))


async def test_bytes_come_back_as_they_went_in(logs):
    assert await logs.append(KEY, 0, b"one\n") == 4
    assert await logs.append(KEY, 4, b"\x1b[1mtwo\r") == 12
    assert await _all(logs) == b"one\n\x1b[1mtwo\r"
    assert await logs.end(KEY) == 12


async def test_a_repeated_piece_is_stored_once(logs):
    await logs.append(KEY, 0, b"abcdef")
    assert await logs.append(KEY, 0, b"abcdef") == 6
    assert await logs.append(KEY, 4, b"efgh") == 8
    assert await _all(logs) == b"abcdefgh"


async def test_what_came_first_stays(logs):
    await logs.append(KEY, 0, b"abc")
    await logs.append(KEY, 0, b"XYZd")
    assert await _all(logs) == b"abcd"


async def test_a_gap_stores_nothing_and_tells_the_end(logs):
    await logs.append(KEY, 0, b"abc")
    assert await logs.append(KEY, 5, b"fgh") == 3
    assert await _all(logs) == b"abc"


async def test_a_part_can_be_read(logs):
    await logs.append(KEY, 0, b"abc")
    await logs.append(KEY, 3, b"def")
    assert await _all(logs, offset=1, limit=3) == b"bcd"
    assert await _all(logs, offset=6) == b""
    assert await _all(logs, offset=99) == b""


async def test_channels_and_attempts_are_apart(logs):
    other = LogKey("aaaabbbbcccc", 2, "setup")
    await logs.append(KEY, 0, b"abc")
    await logs.append(other, 0, b"x")
    assert await _all(logs, other) == b"x"


async def test_a_restarted_control_plane_goes_on_where_it_was(tmp_path):
    first = LogStore(await open_folder(tmp_path))
    for start in range(0, 400, 4):
        await first.append(KEY, start, b"line")
    second = LogStore(await open_folder(tmp_path))
    assert await second.end(KEY) == 400
    assert await second.append(KEY, 400, b"more") == 404
    assert await _all(second) == b"line" * 100 + b"more"


async def test_small_pieces_do_not_pile_up(tmp_path):
    logs = LogStore(await open_folder(tmp_path))
    for number in range(2000):
        await logs.append(KEY, number * 16, b"0123456789abcdef")
    assert sum(path.is_file() for path in tmp_path.rglob("*")) < 100
    assert await _all(logs) == b"0123456789abcdef" * 2000


async def test_readers_see_whole_logs_while_pieces_are_merged(logs):
    async def write() -> None:
        for number in range(500):
            await logs.append(KEY, number * 8, b"%08d" % number)

    async def check() -> None:
        seen = await _all(logs)
        whole = b"".join(b"%08d" % number for number in range(len(seen) // 8))
        assert seen == whole

    writing = asyncio.create_task(write())
    while not writing.done():
        await check()
        await asyncio.sleep(0)
    await writing
    await check()


async def test_a_removed_item_has_no_log(logs):
    await logs.append(KEY, 0, b"abc")
    await logs.append(LogKey("zzzz", 1, "setup"), 0, b"abc")
    assert await logs.items() == [KEY.item_id, "zzzz"]
    assert await logs.delete_item(KEY.item_id) == 1
    assert await logs.items() == ["zzzz"]
    assert await logs.end(KEY) == 0
    assert await logs.delete_item(KEY.item_id) == 0


async def test_many_channels_are_remembered_within_bounds(logs):
    for number in range(300):
        await logs.append(LogKey(f"item{number}", 1, "job"), 0, b"x")
    assert len(logs._channels) <= 128
    assert await _all(logs, LogKey("item0", 1, "job")) == b"x"


_LOG = bytes(range(256)) * 40


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(_LOG)), st.integers(0, 900), st.booleans()), max_size=120)
)
async def test_any_chunks_overlaps_retries_and_restarts_reassemble_exactly(calls):
    store = MemoryStore()
    logs = LogStore(store)
    end = 0
    for offset, length, restart in calls:
        if restart:
            logs = LogStore(store)
        answered = await logs.append(KEY, offset, _LOG[offset : offset + length])
        if offset <= end:
            end = max(end, min(len(_LOG), offset + length))
        assert answered == end
    while end < len(_LOG):
        end = await logs.append(KEY, end, _LOG[end : end + 700])
    assert await _all(logs) == _LOG
    assert await _all(LogStore(store)) == _LOG


class _Failing:
    """A far end that fails as a full disk does, or otherwise."""

    def __init__(self, text: str) -> None:
        self._text = text

    def list(self, _prefix: str):
        async def nothing():
            for batch in ():
                yield batch

        return nothing()

    async def put_async(self, *_args: object) -> None:
        raise BaseError(self._text)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("No space left on device (os error 28)", StorageFullError, "disk .* is full"),
        ("bucket on fire\nwith details", ServerError, "the store failed: bucket on fire$"),
    ],
)
async def test_a_failing_store_is_named(text, kind, words):
    with pytest.raises(kind, match="aaaabbbbcccc") as caught:
        await LogStore(_Failing(text)).append(KEY, 0, b"x")
    assert re.search(words, caught.value.message)
