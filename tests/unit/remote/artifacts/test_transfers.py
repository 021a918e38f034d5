"""Transfers to signed URLs: streamed, verified, repeated where that is harmless."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.model.errors import InvalidInputError, ServerError, UnreachableError
from agent.model.job.digest import encoded
from agent.remote.artifacts import transfers as module
from agent.remote.artifacts.contents import Content
from agent.remote.artifacts.transfers import Transfers
from tests.unit.remote.far_end import FarEnd, cut, pieces, reply


@pytest.fixture
async def transfers() -> AsyncIterator[Transfers]:
    async def sleep(_: float) -> None:
        """No wait."""

    async with Transfers(sleep=sleep) as made:
        yield made


def content(file: Path, data: bytes) -> Content:
    file.write_bytes(data)
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    return Content("dir/file", encoded(md5), len(data), str(file))


async def test_a_file_arrives_with_the_headers_that_were_asked_for(
    transfers: Transfers, end: FarEnd, tmp_path: Path
) -> None:
    end.then(reply(200))
    data = b"x" * 3_000_000
    await transfers.put(content(tmp_path / "f", data), f"{end.url}/u?s=1", ["X-Sign: a:b"])
    assert end.seen == [("PUT", "/u?s=1", data)]
    assert end.headers[0]["X-Sign"] == "a:b"
    assert end.headers[0]["Content-Length"] == str(len(data))
    assert "Authorization" not in end.headers[0]
    assert "Content-Type" not in end.headers[0], "a signature may cover it: none but what was asked"


async def test_a_proxy_of_the_environment_counts_only_where_it_does_for_the_server(
    end: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", end.url)
    monkeypatch.delenv("no_proxy", raising=False)
    end.then(reply(200, b"by the proxy"))
    async with Transfers(proxied=True) as outward:
        assert await outward.read("http://store.invalid/f", limit=100) == b"by the proxy"
    assert len(end.seen) == 1


async def test_cut_and_busy_are_repeated_with_the_whole_content(
    transfers: Transfers, end: FarEnd, tmp_path: Path
) -> None:
    end.then(cut, reply(503), reply(200))
    await transfers.put(content(tmp_path / "f", b"data"), f"{end.url}/u", [])
    assert [body for _, _, body in end.seen] == [b"data"] * 3


async def test_a_refusal_is_not_repeated(transfers: Transfers, end: FarEnd, tmp_path: Path) -> None:
    end.then(reply(422, b"digest mismatch"))
    with pytest.raises(InvalidInputError, match=r"422 Unprocessable Entity.*digest mismatch"):
        await transfers.put(content(tmp_path / "f", b"data"), f"{end.url}/u", [])
    assert len(end.seen) == 1


async def test_a_control_planes_refusal_is_told_in_its_words(
    transfers: Transfers, end: FarEnd, tmp_path: Path
) -> None:
    extensions = {"code": "SERVER_ERROR", "hint": "Free space."}
    told = {"errors": [{"message": "The disk is full.", "extensions": extensions}]}
    end.then(reply(507, json.dumps(told).encode()))
    with pytest.raises(ServerError) as caught:
        await transfers.put(content(tmp_path / "f", b"data"), f"{end.url}/u", [])
    assert str(caught.value) == "The disk is full. Free space."


@pytest.mark.parametrize("other", [b"DATA", b"dat", b"data and more"])
async def test_a_file_that_changed_is_never_whole_at_the_far_end(
    transfers: Transfers, end: FarEnd, tmp_path: Path, other: bytes
) -> None:
    end.then(reply(200))
    promised = content(tmp_path / "f", b"data")
    (tmp_path / "f").write_bytes(other)
    with pytest.raises(InvalidInputError, match="'dir/file' changed while it was being sent"):
        await transfers.put(promised, f"{end.url}/u", [])
    assert end.seen == []


async def test_a_file_that_is_gone_is_named(
    transfers: Transfers, end: FarEnd, tmp_path: Path
) -> None:
    end.then(reply(200))
    promised = content(tmp_path / "f", b"data")
    (tmp_path / "f").unlink()
    with pytest.raises(InvalidInputError, match="'dir/file' cannot be read any more"):
        await transfers.put(promised, f"{end.url}/u", [])


async def test_a_far_end_that_takes_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_SILENCE", 0.2)
    tried: list[asyncio.StreamWriter] = []

    async def take_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tried.append(writer)
        reader._transport.pause_reading()  # type: ignore[attr-defined]

    async def no_wait(_: float) -> None:
        """No wait."""

    server = await asyncio.start_server(take_nothing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/u"
    large = content(tmp_path / "f", bytes(32 << 20))
    async with server, Transfers(sleep=no_wait) as stalled:
        with pytest.raises(UnreachableError, match="'dir/file' could not be transferred"):
            await stalled.put(large, url, [])
        for writer in tried:
            writer.transport.abort()
    assert len(tried) > 1, "it was tried again"


async def test_an_address_that_is_no_url_is_the_servers_fault(
    transfers: Transfers, tmp_path: Path
) -> None:
    with pytest.raises(ServerError, match=r"'/storage/x'.*not a URL"):
        await transfers.put(content(tmp_path / "f", b""), "/storage/x", [])


async def test_signed_addresses_stay_as_they_are_and_foreign_letters_are_encoded(
    transfers: Transfers, end: FarEnd
) -> None:
    end.then(reply(200, b""))
    await transfers.read(f"{end.url}/a%2Fb?sig=x%2By", limit=1)
    await transfers.read(f"{end.url}/ü x", limit=1)
    assert [path for _, path, _ in end.seen] == ["/a%2Fb?sig=x%2By", "/%C3%BC%20x"]


async def test_small_files_are_read_whole_and_large_ones_refused(
    transfers: Transfers, end: FarEnd
) -> None:
    end.then(pieces(b"one ", b"two"))
    assert await transfers.read(f"{end.url}/f", limit=7) == b"one two"
    with pytest.raises(ServerError, match="more than 6 bytes"):
        await transfers.read(f"{end.url}/f", limit=6)


async def test_a_read_that_stays_cut_says_so(transfers: Transfers, end: FarEnd) -> None:
    end.then(pieces(b"one", cut=True))
    with pytest.raises(UnreachableError, match="could not be transferred"):
        await transfers.read(f"{end.url}/f", limit=100)
