"""Blocking work that is cancelled, locks, and the eviction of cache folders."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.system import cache
from agent.system.locks import locked, locked_if_free
from agent.system.tasks import StoppedError, in_thread


async def test_work_gives_its_result_and_its_error(threads):
    assert await in_thread(threads, lambda _: 7) == 7
    with pytest.raises(KeyError):
        await in_thread(threads, lambda _: {}["x"])


@pytest.mark.parametrize("obeys", [True, False])
async def test_a_cancelled_caller_waits_until_the_work_has_stopped(threads, obeys):
    begun, release = threading.Event(), threading.Event()
    ended = []

    def work(stop):
        begun.set()
        release.wait()
        try:
            if obeys:
                stop.check()
        finally:
            ended.append(True)

    task = asyncio.create_task(in_thread(threads, work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, release.set)
    await asyncio.wait([task])
    assert task.cancelled()
    assert ended == [True]


async def test_work_that_never_began_is_dropped():
    hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = asyncio.create_task(in_thread(pool, lambda _: hold.wait()))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(in_thread(pool, lambda stop: stop.check()))
        await asyncio.sleep(0.02)
        second.cancel()
        hold.set()
        await asyncio.wait([first, second])
    assert second.cancelled()


def test_a_stop_that_was_not_asked_lets_work_go_on():
    from agent.system.tasks import Stop

    stop = Stop()
    stop.check()
    stop.set()
    with pytest.raises(StoppedError):
        stop.check()


async def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    inside = []

    async def enter(name):
        async with locked(tmp_path / "deep" / "x.lock"):
            inside.append(name)
            assert len(inside) == 1
            await asyncio.sleep(0.03)
            inside.remove(name)

    await asyncio.gather(*(enter(name) for name in "abc"))


async def test_a_held_lock_is_not_waited_for_where_nobody_wants_to(tmp_path):
    path = tmp_path / "x.lock"
    async with locked(path):
        with locked_if_free(path) as ours:
            assert not ours
    with locked_if_free(path) as ours:
        assert ours


def folder(root, name, idle, size):
    made = root / name
    made.mkdir(parents=True)
    (made / "data").write_bytes(bytes(size))
    cache.mark_used(made)
    then = (made / ".used").stat().st_mtime - idle
    os.utime(made / ".used", (then, then))
    return made


def names(chosen):
    return [entry.folder.name for entry in chosen]


def test_entries_that_are_too_old_are_evicted(tmp_path):
    folder(tmp_path, "old", 10_000, 10)
    folder(tmp_path, "new", 5_000, 10)
    assert names(cache.surplus(cache.entries(tmp_path), 9_000, 0)) == ["old"]


def test_the_least_recently_used_are_evicted_until_the_rest_fits(tmp_path):
    for name, idle in (("a", 9_000), ("b", 8_000), ("c", 7_000)):
        folder(tmp_path, name, idle, 100)
    assert names(cache.surplus(cache.entries(tmp_path), 0, 150)) == ["a", "b"]


def test_recently_used_entries_stay(tmp_path):
    folder(tmp_path, "a", 60, 100)
    assert cache.surplus(cache.entries(tmp_path), 1, 1) == []


def test_zero_means_no_limit(tmp_path):
    folder(tmp_path, "a", 10**6, 100)
    assert cache.surplus(cache.entries(tmp_path), 0, 0) == []


def test_folders_without_a_record_of_use_are_ignored(tmp_path):
    (tmp_path / "other").mkdir()
    assert cache.entries(tmp_path) == []
