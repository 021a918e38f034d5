"""Small files together: how they are grouped, what one request holds, what is told of a failure."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job.digest import encoded
from agent.remote.artifacts.batches import Addressed, batch_url, batches
from agent.remote.artifacts.reading import Content
from agent.remote.artifacts.transfers import Transfers
from tests.unit.remote.far_end import FarEnd, cut, reply

PLACE = "/base/storage/contents/me/0123/f?expires=1&signature=a_b-c"


def addressed(size: int, url: str = f"http://h{PLACE}") -> Addressed:
    return Addressed(Content("f", "", size, b""), url)


def file(folder: Path, name: str, data: bytes, base: str) -> Addressed:
    (folder / name).write_bytes(data)
    digest = encoded(hashlib.md5(data).digest())
    return Addressed(Content(name, digest, len(data), folder / name), f"{base}{PLACE}")


async def no_sleep(_: float) -> None:
    """No wait."""


@given(st.lists(st.integers(0, 300_000), max_size=400))
def test_every_file_is_in_one_batch_in_its_order(sizes: list[int]) -> None:
    files = [addressed(size) for size in sizes]
    found = batches(files)
    assert [one for batch in found for one in batch] == files
    assert all(1 <= len(batch) <= 100 for batch in found)
    assert all(sum(one.content.size for one in b) <= 2 * 1024**2 for b in found)


def test_only_small_files_and_the_server_s_own_addresses_go_together() -> None:
    assert addressed(10).is_small
    assert not addressed(1_000_000).is_small
    assert not addressed(10, "https://bucket.example/x?sig=1").is_small
    assert batch_url([addressed(1)]) == "http://h/base/storage/contents"


async def test_a_request_names_the_address_of_each_part(end: FarEnd, tmp_path: Path) -> None:
    end.then(cut, reply(503), reply(200))
    files = [file(tmp_path, name, data, end.url) for name, data in (("a", b"A" * 9), ("b", b""))]
    async with Transfers(sleep=no_sleep) as transfers:
        await transfers.put_batch(files)
    assert [(method, path) for method, path, _ in end.seen] == [
        ("POST", "/base/storage/contents")
    ] * 3
    body = end.seen[-1][2]
    assert body.count(f"Content-Location: {end.url}{PLACE}".encode()) == 2
    assert b"AAAAAAAAA" in body
    assert end.headers[-1]["Content-Type"].startswith("multipart/mixed")
    assert "Authorization" not in end.headers[-1]


async def test_a_file_that_changed_is_named_and_nothing_is_sent(
    end: FarEnd, tmp_path: Path
) -> None:
    files = [file(tmp_path, name, b"x", end.url) for name in ("same", "other")]
    (tmp_path / "other").write_bytes(b"y")
    async with Transfers(sleep=no_sleep) as transfers:
        with pytest.raises(InvalidInputError, match="«other» changed while it was being sent"):
            await transfers.put_batch(files)
    assert end.seen == []
