"""A reflector misses nothing, whatever the API server and the connection do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.model.spec import Json
from agent.runners.kubernetes import reflector as module
from agent.runners.kubernetes.api import EVENTS, JOBS
from agent.runners.kubernetes.reflector import Reflector
from agent.system.tasks import cancel_task
from tests.faults.kubernetes.scripted_api import (
    NAMESPACE,
    Answer,
    Pauses,
    ScriptedApi,
    Stream,
    api_of,
)


class Following:
    """A running reflector of Jobs, and what it has told."""

    def __init__(self, server: ScriptedApi) -> None:
        self.server = server
        self.pauses = Pauses()
        self.told: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        self.fails_on = ""
        self.reflector: Reflector | None = None

    def changed(self, item: Json, deleted: bool) -> None:  # a callback
        if (name := item["metadata"]["name"]) == self.fails_on:
            self.fails_on = ""
            raise KeyError(name)
        assert "managedFields" not in item["metadata"]
        self.told.put_nowait((name, deleted))

    async def next(self) -> tuple[str, bool]:
        async with asyncio.timeout(60):
            return await self.told.get()

    async def watch(self) -> Stream:
        return await self.server.watch("jobs")

    @property
    def lists(self) -> int:
        return self.server.counted("GET", "jobs", limit="500")


@pytest.fixture
async def following(tmp_path: Path) -> AsyncIterator[Following]:
    async with following_in(tmp_path) as found:
        yield found


@asynccontextmanager
async def following_in(folder: Path) -> AsyncIterator[Following]:
    server = ScriptedApi()
    server.put("jobs", "first")
    found = Following(server)
    async with server.serving(), api_of(server, folder, found.pauses) as api:
        found.reflector = Reflector(api, JOBS, NAMESPACE, {}, found.changed, found.pauses)
        task = asyncio.create_task(found.reflector.run())
        assert await found.next() == ("first", False)
        yield found
        await cancel_task(task)


async def test_a_watch_without_bookmarks_ends_before_its_silence_means_something(
    tmp_path: Path,
) -> None:
    """The API server does not cache events, and sends no bookmarks for them."""
    server = ScriptedApi()
    async with server.serving(), api_of(server, tmp_path, Pauses()) as api:
        reflector = Reflector(api, EVENTS, NAMESPACE, {}, lambda *_: None, Pauses())
        task = asyncio.create_task(reflector.run())
        watch = await server.watch("events")
        assert float(watch.query["timeoutSeconds"]) < module._SILENCE
        await cancel_task(task)


async def test_changes_come_in_their_order(following: Following) -> None:
    watch = await following.watch()
    assert watch.query["resourceVersion"] == str(following.server.version)
    await watch.event("ADDED", following.server.put("jobs", "second"))
    await watch.event("MODIFIED", following.server.put("jobs", "first"))
    await watch.event("DELETED", following.server.remove("jobs", "second"))
    told = [await following.next() for _ in range(3)]
    assert told == [("second", False), ("first", False), ("second", True)]


@pytest.mark.parametrize("end", ["close", "cut", "half a line"])
async def test_a_watch_that_ends_goes_on_from_where_it_was(following: Following, end: str) -> None:
    """As the server does it to a reader that is slow: without an error."""
    watch = await following.watch()
    seen = following.server.put("jobs", "second")
    await watch.event("ADDED", seen)
    await following.next()
    missed = following.server.put("jobs", "third")
    if end == "half a line":
        await watch.raw(b'{"type": "ADDED", "object": {"metad')
    if end == "close":
        await watch.close()
    else:
        watch.cut()
    again = await following.watch()
    assert again.query["resourceVersion"] == seen["metadata"]["resourceVersion"]
    await again.event("ADDED", missed)
    assert await following.next() == ("third", False)
    assert following.lists == 1


async def test_a_bookmark_moves_the_place_to_go_on_from(following: Following) -> None:
    watch = await following.watch()
    await watch.event("BOOKMARK", {"metadata": {"resourceVersion": "4711"}})
    await watch.close()
    assert (await following.watch()).query["resourceVersion"] == "4711"
    assert following.told.empty()


@pytest.mark.parametrize("how", ["answer", "event", "other error", "no JSON"])
async def test_what_was_missed_is_found_by_comparing(following: Following, how: str) -> None:
    """Once the server no longer has the changes since then."""
    watch = await following.watch()
    following.server.remove("jobs", "first")
    following.server.put("jobs", "second")
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    if how == "answer":
        answers = [Answer(410, gone)]
        following.server.intercept = lambda request: (
            answers.pop() if answers and "watch" in request.query else None
        )
        await watch.close()
    elif how == "no JSON":
        await watch.raw(b"<html>\n")
    else:
        await watch.event("ERROR", gone if how == "event" else {"code": 500, "message": "etcd"})
    assert [await following.next() for _ in range(2)] == [("first", True), ("second", False)]
    assert following.lists == 2


async def test_a_silent_watch_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bookmarks come each minute: the connection leads nowhere."""
    monkeypatch.setattr(module, "_SILENCE", 0.2)
    async with following_in(tmp_path) as following:
        await following.watch()
        following.server.put("jobs", "second")
        assert await following.next() == ("second", False)
        assert following.lists >= 2


async def test_a_burst_of_changes_arrives_whole(following: Following) -> None:
    """More than fits into any buffer, in one go."""
    watch = await following.watch()
    names = [f"job-{n}" for n in range(300)]
    for name in names:
        await watch.event("ADDED", following.server.put("jobs", name, spec={"text": "x" * 20_000}))
    assert [await following.next() for _ in names] == [(name, False) for name in names]


async def test_an_object_that_cannot_be_read_does_not_end_the_watch(following: Following) -> None:
    watch = await following.watch()
    following.fails_on = "odd"
    await watch.event("ADDED", following.server.put("jobs", "odd"))
    await following.watch()
    following.server.put("jobs", "second")
    assert following.lists == 2


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_a_pause(
    following: Following,
) -> None:
    for _ in range(8):
        await (await following.watch()).close()
    await following.watch()
    pauses = following.pauses.taken
    assert len(pauses) >= 8
    assert pauses[-1] > 5


async def test_what_was_created_after_a_list_was_made_is_not_missing_from_it(
    following: Following,
) -> None:
    """A call of ours returned it; the list is older."""
    assert following.reflector is not None
    watch = await following.watch()
    made = following.server.put("jobs", "made")
    del following.server.objects["jobs"]["made"]
    following.server.version -= 1
    following.reflector.add(made)
    await watch.event("ERROR", {"code": 410})
    again = await following.watch()
    assert following.told.empty()
    # Nor is it forgotten: the next list is newer, and without it.
    following.server.version += 1
    await again.event("ERROR", {"code": 410})
    assert await following.next() == ("made", True)
