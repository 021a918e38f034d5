"""Small files together: how they are grouped, what one request holds, what is told of a failure."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job.digest import encoded
from agent.remote.artifacts.contents import Content
from agent.remote.artifacts.transfers import ContentWithUrl, Transfers, batch_url, batches
from tests.unit.remote.far_end import FarEnd, cut, reply

PLACE = "/base/storage/contents/me/0123/f?expires=1&signature=a_b-c"


def addressed(size: int, url: str = f"http://h{PLACE}") -> ContentWithUrl:
    return ContentWithUrl(Content("f", "", size, b""), url)


def file(folder: Path, name: str, data: bytes, base: str) -> ContentWithUrl:
    (folder / name).write_bytes(data)
    digest = encoded(hashlib.md5(data).digest())
    return ContentWithUrl(Content(name, digest, len(data), str(folder / name)), f"{base}{PLACE}")


async def no_sleep(_: float) -> None:
    """No wait."""


@given(st.lists(st.integers(0, 300_000), max_size=400))
def test_every_file_is_in_one_batch_in_its_order(sizes: list[int]) -> None:
    files = [addressed(size) for size in sizes]
    found = batches(files)
    assert [one for batch in found for one in batch] == files
    assert all(1 <= len(batch) <= 500 for batch in found)
    assert all(sum(one.content.size for one in b) <= 16 * 1024**2 for b in found)


def test_only_small_files_and_the_server_s_own_addresses_go_together() -> None:
    assert addressed(10).is_small
    assert not addressed(1_000_000).is_small
    assert not addressed(10, "https://bucket.example/x?sig=1").is_small
    assert batch_url([addressed(1)]) == "http://h/base/storage/contents"


async def test_each_file_stands_behind_its_size_and_address(end: FarEnd, tmp_path: Path) -> None:
    end.then(cut, reply(503), reply(200))
    files = [file(tmp_path, name, data, end.url) for name, data in (("a", b"A" * 9), ("b", b""))]
    async with Transfers(sleep=no_sleep) as transfers:
        await transfers.put_batch(files)
    assert [(method, path) for method, path, _ in end.seen] == [
        ("POST", "/base/storage/contents")
    ] * 3
    address = f"{end.url}{PLACE}"
    assert end.seen[-1][2].decode() == f"9 {address}\nAAAAAAAAA0 {address}\n"
    assert end.headers[-1]["Content-Type"] == "application/vnd.launch.contents"
    assert end.headers[-1]["Content-Length"] == str(len(end.seen[-1][2]))
    assert "Authorization" not in end.headers[-1]


async def test_many_files_arrive_whole(end: FarEnd, tmp_path: Path) -> None:
    """More than one piece of reading."""
    end.then(reply(200))
    bodies = [bytes([number]) * 200_000 for number in range(20)]
    files = [file(tmp_path, str(number), body, end.url) for number, body in enumerate(bodies)]
    async with Transfers(sleep=no_sleep) as transfers:
        await transfers.put_batch(files)
    line = f"200000 {end.url}{PLACE}\n".encode()
    assert end.seen[0][2] == b"".join(line + body for body in bodies)


@pytest.mark.parametrize("grown", [b"", b"yy"])
async def test_a_file_whose_size_changed_is_named(
    end: FarEnd, tmp_path: Path, grown: bytes
) -> None:
    end.then(reply(200))
    files = [file(tmp_path, name, b"x", end.url) for name in ("same", "other")]
    (tmp_path / "other").write_bytes(grown)
    async with Transfers(sleep=no_sleep) as transfers:
        with pytest.raises(InvalidInputError, match="'other' changed while it was being sent"):
            await transfers.put_batch(files)


async def test_a_file_that_the_server_finds_changed_is_named(end: FarEnd, tmp_path: Path) -> None:
    end.then(reply(422, b"DIGEST_MISMATCH"))
    files = [file(tmp_path, name, b"x", end.url) for name in ("same", "other")]
    (tmp_path / "other").write_bytes(b"y")
    async with Transfers(sleep=no_sleep) as transfers:
        with pytest.raises(InvalidInputError, match="'other' changed while it was being sent"):
            await transfers.put_batch(files)


async def test_what_else_the_server_refuses_is_told_in_its_words(
    end: FarEnd, tmp_path: Path
) -> None:
    end.then(reply(413, b"too large"))
    async with Transfers(sleep=no_sleep) as transfers:
        with pytest.raises(InvalidInputError, match=r"413 .*too large"):
            await transfers.put_batch([file(tmp_path, "a", b"x", end.url)])


async def test_a_file_that_is_gone_is_named(end: FarEnd, tmp_path: Path) -> None:
    end.then(reply(200))
    files = [file(tmp_path, name, b"x", end.url) for name in ("same", "other")]
    (tmp_path / "other").unlink()
    async with Transfers(sleep=no_sleep) as transfers:
        with pytest.raises(InvalidInputError, match="'other' cannot be read any more: No such"):
            await transfers.put_batch(files)
