"""Small contents stored together: what was written is recorded, whatever happens then."""

import asyncio
import hashlib

import pytest
from obstore.store import MemoryStore

from agent.control.files.contents import ContentStore, SmallContent
from agent.control.files.storage import StorageFullError
from agent.control.files.verifying import DigestMismatchError
from agent.control.store.artifact_records import ContentRecord


def small(data: bytes, md5: str = "") -> SmallContent:
    return SmallContent("ann", md5 or hashlib.md5(data).hexdigest(), data)


class Ledger:
    """Remembers; the first with a content counts."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], ContentRecord] = {}

    async def stored_all(self, new):
        return {(one.entity, one.md5): self.kept.setdefault((one.entity, one.md5), one)
                for one in new}  # fmt: skip


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
def ledger() -> Ledger:
    return Ledger()


def check_kept(disk: Disk, ledger: Ledger, number: int) -> None:
    """So many lie on the disk, and each of them counts."""
    assert len(disk.keys) == number
    assert {one.key for one in ledger.kept.values()} == disk.keys


async def arriving(*contents: SmallContent):
    for one in contents:
        yield one


async def test_on_a_full_disk_what_was_written_counts_and_nothing_else_lies_there(ledger):
    disk = Disk(room=3)
    contents = [small(b"%d" % number) for number in range(5)]
    with pytest.raises(StorageFullError, match="disk of the control plane is full"):
        await ContentStore(disk, ledger, 100).put_all(arriving(*contents))
    check_kept(disk, ledger, 3)


async def test_what_came_before_a_wrong_one_counts(ledger, monkeypatch):
    monkeypatch.setattr("agent.control.files.contents._GROUP", 2)
    disk = Disk(room=100)
    contents = [*(small(b"%d" % number) for number in range(4)), small(b"x", "0" * 32)]
    with pytest.raises(DigestMismatchError):
        await ContentStore(disk, ledger, 100).put_all(arriving(*contents))
    check_kept(disk, ledger, 4)


async def test_what_was_under_way_when_the_connection_was_cut_counts(ledger, monkeypatch):
    """A thread cannot be cancelled: what it writes would lie there for a day, and come again."""
    monkeypatch.setattr("agent.control.files.contents._GROUP", 2)
    disk = Disk(room=100)
    began = asyncio.Event()

    async def cut():
        for number in range(4):
            yield small(b"%d" % number)
        began.set()
        await asyncio.Event().wait()

    storing = asyncio.create_task(ContentStore(disk, ledger, 100).put_all(cut()))
    await began.wait()
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    check_kept(disk, ledger, 4)


async def test_the_same_content_twice_is_kept_once(ledger):
    disk = Disk(room=100)
    assert await ContentStore(disk, ledger, 100).put_all(arriving(small(b""), small(b""))) == 2
    check_kept(disk, ledger, 1)
