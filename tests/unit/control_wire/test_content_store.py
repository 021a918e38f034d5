"""Contents: what was written is recorded, what is incomplete leaves nothing behind."""

import asyncio
import hashlib
import os
import stat
from contextlib import asynccontextmanager

import pytest
from obstore.store import MemoryStore

from agent.control.bodies import IncompleteBodyError
from agent.control.files.contents import ContentStore, SmallContent
from agent.control.files.storage import (
    FOLDERS,
    DigestMismatchError,
    StorageFullError,
    open_folder,
)
from agent.control.store.contents import ContentRecord


def small(data: bytes, md5: str = "") -> SmallContent:
    return SmallContent("ann", md5 or hashlib.md5(data).hexdigest(), data)


class Rows:
    """Remembers; the first with a content counts."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], ContentRecord] = {}

    async def record_all(self, new):
        return {(one.entity, one.md5): self.kept.setdefault((one.entity, one.md5), one)
                for one in new}  # fmt: skip

    async def find(self, entity, md5):
        return self.kept.get((entity, md5))

    async def record(self, new):
        return self.kept.setdefault((new.entity, new.md5), new)


class Unlimited:
    """No limit of what an entity may store."""

    @asynccontextmanager
    async def arriving(self, entity):
        yield self

    def add(self, size: int) -> None:
        pass


class Disk:
    """A store with room for so many contents; `wait` holds each back."""

    def __init__(self, room: int) -> None:
        self.store = MemoryStore()
        self.room = room

    def put(self, key: str, data: bytes) -> None:
        if self.room == 0:
            raise OSError("No space left on device (os error 28)")
        self.room -= 1
        self.store.put(key, data)

    async def delete_async(self, key: str) -> None:
        await self.store.delete_async(key)

    @property
    def keys(self) -> set[str]:
        return {meta["path"] for batch in self.store.list() for meta in batch}


@pytest.fixture
def rows() -> Rows:
    return Rows()


def check_kept(disk: Disk, rows: Rows, number: int) -> None:
    """So many lie on the disk, and each of them counts."""
    assert len(disk.keys) == number
    assert {one.key for one in rows.kept.values()} == disk.keys


async def arriving(*contents: SmallContent):
    for one in contents:
        yield one


async def test_on_a_full_disk_what_was_written_counts_and_nothing_else_lies_there(rows):
    disk = Disk(room=3)
    contents = [small(b"%d" % number) for number in range(5)]
    with pytest.raises(StorageFullError, match="disk of the control plane is full"):
        await ContentStore(disk, rows, Unlimited(), 100).put_all(arriving(*contents))
    check_kept(disk, rows, 3)


async def test_what_came_before_a_wrong_one_counts(rows, monkeypatch):
    monkeypatch.setattr("agent.control.files.contents._GROUP", 2)
    disk = Disk(room=100)
    contents = [*(small(b"%d" % number) for number in range(4)), small(b"x", "0" * 32)]
    with pytest.raises(DigestMismatchError):
        await ContentStore(disk, rows, Unlimited(), 100).put_all(arriving(*contents))
    check_kept(disk, rows, 4)


async def test_what_was_under_way_when_the_connection_was_cut_counts(rows, monkeypatch):
    """A thread cannot be cancelled: what it writes would lie there for a day, and come again."""
    monkeypatch.setattr("agent.control.files.contents._GROUP", 2)
    disk = Disk(room=100)
    began = asyncio.Event()

    async def cut():
        for number in range(4):
            yield small(b"%d" % number)
        began.set()
        await asyncio.Event().wait()

    storing = asyncio.create_task(ContentStore(disk, rows, Unlimited(), 100).put_all(cut()))
    await began.wait()
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    check_kept(disk, rows, 4)


async def test_the_same_content_twice_is_kept_once(rows):
    disk = Disk(room=100)
    assert (
        await ContentStore(disk, rows, Unlimited(), 100).put_all(arriving(small(b""), small(b"")))
        == 2
    )
    check_kept(disk, rows, 1)


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


async def _pieces(data: bytes, cut_at: int):
    for start in range(0, len(data), 1000):
        if start >= cut_at:
            raise IncompleteBodyError("cut")
        yield data[start : start + 1000]


@pytest.mark.parametrize("length", [4000, 12_000_000])
async def test_a_cut_upload_leaves_nothing(rows, tmp_path, length):
    data = b"x" * length
    store = ContentStore(await open_folder(tmp_path), rows, Unlimited(), 20_000_000)
    with pytest.raises(IncompleteBodyError):
        await store.put("ann", hashlib.md5(data).hexdigest(), _pieces(data, length // 2), None)
    assert _files(tmp_path) == []
    assert not rows.kept


async def test_a_cancelled_upload_leaves_nothing(rows, tmp_path):
    store = ContentStore(await open_folder(tmp_path), rows, Unlimited(), 20_000_000)
    began = asyncio.Event()

    async def endless():
        yield b"x" * 6_000_000
        began.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(store.put("ann", "0" * 32, endless(), None))
    await began.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    async with asyncio.timeout(10):
        while _files(tmp_path):
            await asyncio.sleep(0.01)


async def test_what_a_killed_upload_left_is_removed_at_the_next_start(tmp_path):
    folder = tmp_path / "contents" / "ann"
    folder.mkdir(parents=True)
    (folder / f"{'a' * 32}#1").write_bytes(b"half")
    kept = folder / ("b" * 32)
    kept.write_bytes(b"whole")
    await open_folder(tmp_path)
    assert _files(tmp_path) == [kept]


async def test_the_folders_of_the_store_are_their_owners_only_whatever_the_umask(tmp_path):
    """Also one that was made before with another mode: the files in them follow the umask."""
    (tmp_path / "contents").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        await open_folder(tmp_path)
    finally:
        os.umask(before)
    folders = [tmp_path, *(tmp_path / name for name in FOLDERS)]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
