"""Logs by offset on both databases, through several processes of the control plane."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.exceptions import BaseError
from obstore.store import MemoryStore

from agent.config.control import ControlConfig
from agent.control.files import logs as module
from agent.control.files.logs import LogStore
from agent.control.files.storage import StorageFullError, open_folder
from agent.control.services.logs import AttemptLogs, LogKey
from agent.control.services.notifications import topic_log
from agent.control.store.items import ClaimRecord
from agent.control.store.log_chunks import LogChunk
from agent.model.cause import Cause
from agent.model.errors import FencedError, LaunchError, ServerError
from agent.model.phase import Phase
from agent.model.work import Lease
from tests.contract.store.world import Agent, World, open_world


@dataclass
class Log:
    """The job's log of one attempt, written as an agent does it through any process."""

    world: World
    agent: Agent
    claim: ClaimRecord
    store: LogStore

    @property
    def key(self) -> LogKey:
        return LogKey(self.claim.lease.item_id, self.claim.lease.attempt, "job")

    async def append(self, offset: int, data: bytes, through: "Log | None" = None) -> int:
        """As the route does; returns the end."""
        log = through or self
        rows, me = log.world.plane.logs, log.world.me
        _, end = await rows.check_append(me, self.claim.lease, "job")
        fresh = data[end - offset :] if offset <= end else b""
        if fresh:
            end = await log.store.append(me, self.claim.lease, "job", end, fresh)
        return end

    async def read(self, offset: int = 0, limit: int | None = None) -> bytes:
        end = (await self.world.plane.logs.state(self.world.me, self.key)).end
        limit = end - offset if limit is None else min(limit, end - offset)
        return b"".join([piece async for piece in self.store.read(self.key, offset, limit)])

    async def chunks(self) -> list[LogChunk]:
        found: list[LogChunk] = []
        while page := await self.world.plane.logs.chunks(self.key, found[-1].stop if found else 0):
            found.extend(page)
        return found


@pytest.fixture
async def log(world: World, tmp_path: Path) -> Log:
    return await open_log(world, LogStore(await open_folder(tmp_path / "o"), world.plane.logs))


async def open_log(world: World, store: LogStore) -> Log:
    agent = await world.agent()
    await world.submit()
    return Log(world, agent, await agent.claim_one(), store)


@pytest.fixture
async def other(log: Log, store_config: ControlConfig, tmp_path: Path) -> AsyncIterator[Log]:
    """The same log through another process: on SQLite there can be none, so it is the same."""
    async with AsyncExitStack() as stack:
        world = log.world
        if store_config.database_url is not None:
            opened = await stack.enter_async_context(open_world(store_config))
            world = World(opened.plane, log.world.me, log.world.key)
        store = LogStore(await open_folder(tmp_path / "o"), world.plane.logs)
        yield Log(world, log.agent, log.claim, store)


async def test_bytes_come_back_as_they_went_in(log: Log) -> None:
    assert await log.append(0, b"one\n") == 4
    assert await log.append(4, b"\x1b[1mtwo\r") == 12
    assert await log.read() == b"one\n\x1b[1mtwo\r"
    assert await log.read(1, 3) == b"ne\n"
    assert await log.read(12) == b""


async def test_what_came_first_stays_and_a_gap_stores_nothing(log: Log) -> None:
    assert await log.append(0, b"abc") == 3
    assert await log.append(0, b"XYZd") == 4
    assert await log.append(5, b"fgh") == 4
    assert await log.append(2, b"cd") == 4
    assert await log.read() == b"abcd"


async def test_either_replica_writes_and_reads(log: Log, other: Log) -> None:
    written, both = b"", (log, other)
    for number in range(20):
        data = b"%d " % number * (20_000 if number % 5 == 4 else 1)
        assert await log.append(len(written), data, through=both[number % 2]) == len(written) + len(
            data
        )
        written += data
        assert await both[(number + 1) % 2].read() == written
    # What was sent to a replica whose answer was lost is sent to the other one.
    assert await log.append(3, written[3:] + b"more", through=other) == len(written) + 4
    assert await log.read() == written + b"more"


async def test_two_replicas_that_are_sent_the_same_bytes_store_them_once(
    log: Log, other: Log
) -> None:
    small, large = b"x" * 1000, b"y" * 100_000
    for at, data in ((0, small), (1000, large)):
        ends = await asyncio.gather(
            *(log.append(at, data, through=one) for one in (log, other) * 3)
        )
        assert set(ends) == {at + len(data)}
    assert await other.read() == small + large
    assert [(chunk.first, chunk.stop) for chunk in await log.chunks()] == [
        (0, 1000),
        (1000, 101_000),
    ]
    objects = [name async for batch in log.store._store.list("logs/") for name in batch]
    assert len(objects) == 1


async def test_small_pieces_do_not_pile_up(
    log: Log, other: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.control.services.logs._MANY_CHUNKS", 8)
    for number in range(40):
        await log.append(number * 16, b"0123456789abcdef", through=(log, other)[number % 2])
    assert len(await log.chunks()) < 16
    assert await log.read() == b"0123456789abcdef" * 40
    assert await other.read(16 * 25 + 3, 10) == b"3456789abc"


async def test_readers_see_whole_logs_while_pieces_are_merged(
    log: Log, other: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.control.services.logs._MANY_CHUNKS", 8)

    async def write() -> None:
        for number in range(30):
            await log.append(number * 8, b"%08d" % number)

    async def check() -> None:
        seen = await other.read()
        assert seen == b"".join(b"%08d" % number for number in range(len(seen) // 8))

    writing = asyncio.create_task(write())
    while not writing.done():
        await check()
    await writing
    await check()


async def test_a_reader_that_was_overtaken_by_a_merge_finds_the_new_object(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is read, then the object it names is replaced, then the object is read."""
    large = b"x" * 50_000
    await log.append(0, large)
    (chunk,) = await log.chunks()
    await log.store._store.rename_async(
        log.key.prefix + (chunk.object or ""), log.key.prefix + "new"
    )
    asked = log.world.plane.logs.chunks
    answers = [[chunk], [LogChunk(0, 50_000, object="new")]]

    async def chunks(self: AttemptLogs, key: LogKey, start: int) -> Any:
        return answers.pop(0)

    monkeypatch.setattr(AttemptLogs, "chunks", chunks)
    assert await log.read() == large
    answers += [[chunk], [chunk]]
    with pytest.raises(ServerError, match="an object is missing: logs/"):
        await log.read()
    assert asked is not None


async def test_many_logs_are_written_by_one_transaction_and_each_has_its_answer(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives while a commit is under way waits and is committed together."""
    commits: list[int] = []
    write = AttemptLogs._write

    async def counted(self: AttemptLogs, together: Any) -> Any:
        commits.append(len(together))
        return await write(self, together)

    monkeypatch.setattr(AttemptLogs, "_write", counted)
    agent, world = await log.world.agent("second"), log.world
    for _ in range(20):
        await world.submit()
    claims = [await agent.claim_one() for _ in range(20)]
    logs = [Log(world, agent, claim, log.store) for claim in claims]
    stale = Lease(claims[0].lease.item_id, 1, 9)

    async def append(lease: Lease) -> int:
        return await log.store.append(world.me, lease, "job", 0, b"line\n")

    answers = await asyncio.gather(
        *(append(one.claim.lease) for one in logs), append(stale), return_exceptions=True
    )
    assert answers[:20] == [5] * 20
    assert isinstance(answers[20], FencedError)
    assert commits == [1, 20]
    assert {await one.read() for one in logs} == {b"line\n"}


async def test_a_cancelled_writer_takes_no_other_with_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote for others, whose clients wait for their answers."""
    began, go_on = asyncio.Event(), asyncio.Event()
    write = AttemptLogs._write

    async def slow(self: AttemptLogs, together: Any) -> Any:
        began.set()
        await go_on.wait()
        return await write(self, together)

    monkeypatch.setattr(AttemptLogs, "_write", slow)
    world, lease = log.world, log.claim.lease
    sends = [
        asyncio.create_task(log.store.append(world.me, lease, channel, 0, b"abc"))
        for channel in ("setup", "job", "job")
    ]
    await began.wait()
    began.clear()
    sends[0].cancel()  # it writes its own
    await began.wait()
    sends[1].cancel()  # it writes its own and that of the third
    await began.wait()
    go_on.set()
    assert await sends[2] == 3
    assert [one.cancelled() for one in sends] == [True, True, False]
    assert await log.read() == b"abc"
    await asyncio.gather(*sends, return_exceptions=True)


async def test_what_a_cancelled_writer_has_committed_for_others_is_kept(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written again, found stored, and its object must not be deleted for that."""
    began, committed = asyncio.Event(), asyncio.Event()
    write, calls = AttemptLogs._write, itertools.count()

    async def cancelled_after_the_commit(self: AttemptLogs, together: Any) -> Any:
        number = next(calls)
        if number == 0:
            began.set()
            await asyncio.Event().wait()
        answer = await write(self, together)
        if number == 1:
            committed.set()
            await asyncio.Event().wait()
        return answer

    monkeypatch.setattr(AttemptLogs, "_write", cancelled_after_the_commit)
    world, lease, large = log.world, log.claim.lease, b"x" * 50_000

    def send(channel: Any, data: bytes) -> asyncio.Task[int]:
        return asyncio.create_task(log.store.append(world.me, lease, channel, 0, data))

    first = send("setup", b"a")
    await began.wait()
    others = [send("setup", b"b"), send("job", large)]
    async with asyncio.timeout(30):
        while len(world.plane.logs._waiting) < 2:
            await asyncio.sleep(0.01)
    first.cancel()
    await committed.wait()
    others[0].cancel()
    assert await others[1] == len(large)
    assert await log.read() == large
    await asyncio.gather(first, *others, return_exceptions=True)


async def test_followers_are_notified_by_any_replica(log: Log, other: Log) -> None:
    topic = topic_log(log.key.item_id)
    with log.world.plane.notifications.subscribe([topic]) as subscription:
        await log.append(0, b"abc", through=other)
        assert await subscription.wait(30)
    assert (await log.world.plane.logs.state(log.world.me, log.key)).end == 3


async def test_a_log_is_complete_when_its_attempt_is_over(log: Log) -> None:
    world = log.world
    state = await world.plane.logs.state(world.me, log.key)
    assert (state.end, state.complete) == (0, False)
    await log.append(0, b"abc")
    await log.agent.start(log.claim)
    await log.agent.finish(log.claim, Phase.FAILED, Cause.RUN_EXIT_CODE, "1", 1)
    (attempt,) = await world.plane.items.attempts(world.me, log.key.item_id)
    assert (attempt.setup_log_bytes, attempt.job_log_bytes) == (0, 3)
    assert (await world.plane.logs.state(world.me, log.key)).complete


async def test_a_removed_item_has_no_log(log: Log) -> None:
    await log.append(0, b"x" * 40_000)
    assert await log.store.items() == [log.key.item_id]
    assert await log.store.delete_item(log.key.item_id) == 1
    assert await log.store.items() == []


_LOG = bytes(range(256)) * 40
_CALLS = st.lists(st.tuples(st.integers(0, len(_LOG)), st.integers(0, 900)), max_size=60)


@pytest.fixture
async def new_log(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes logs whose pieces are large from 300 bytes on, and merged from 5 on."""
    monkeypatch.setattr(module, "_SMALL", 300)
    monkeypatch.setattr("agent.control.services.logs._MANY_CHUNKS", 5)
    store = LogStore(MemoryStore(), world.plane.logs)
    agent = await world.agent()

    async def make() -> Log:
        await world.submit()
        return Log(world, agent, await agent.claim_one(), store)

    return make


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(calls=_CALLS)
async def test_any_pieces_overlaps_and_retries_reassemble_exactly(
    new_log: Callable[[], Any], calls: list[tuple[int, int]]
) -> None:
    log, end = await new_log(), 0
    for offset, length in calls:
        answered = await log.append(offset, _LOG[offset : offset + length])
        if offset <= end:
            end = max(end, min(len(_LOG), offset + length))
        assert answered == end
    assert await log.read() == _LOG[:end]


class _Failing:
    """A far end that fails as a full disk does, or otherwise."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def put_async(self, *_args: object) -> None:
        raise BaseError(self._text)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("No space left on device (os error 28)", StorageFullError, "disk .* is full"),
        ("bucket on fire\nwith details", ServerError, "the store failed: bucket on fire$"),
    ],
)
async def test_a_failing_store_is_named_and_nothing_is_recorded(
    world: World, text: str, kind: type[LaunchError], words: str
) -> None:
    failing: Any = _Failing(text)
    log = await open_log(world, LogStore(failing, world.plane.logs))
    with pytest.raises(kind, match=log.key.item_id) as caught:
        await log.append(0, b"x" * 40_000)
    assert re.search(words, caught.value.message)
    assert (await world.plane.logs.state(world.me, log.key)).end == 0
