"""Many small contents in one request: stored as alone, each by its own address."""

import asyncio
import io
from contextlib import asynccontextmanager

import pytest

from agent.control import bodies
from tests.integration.control_wire.uploading import Upload

KIND = "application/vnd.launch.contents"
FILES = {f"lib/{number}.py": f"N = {number}\n".encode() * number for number in range(60)}


async def _post(wire, addresses: list[str], contents: list[bytes]) -> tuple[int, str]:
    pairs = zip(addresses, contents, strict=True)
    return await _send(
        wire, b"".join(f"{len(data)} {address}\n".encode() + data for address, data in pairs)
    )


async def _send(wire, body: bytes, kind: str = KIND) -> tuple[int, str]:
    url, headers = f"{wire.server.url}/storage/contents", {"Content-Type": kind}
    async with wire.http.post(url, data=io.BytesIO(body), headers=headers) as answer:
        return answer.status, await answer.text()


async def _announced(wire, files: dict[str, bytes]) -> tuple[Upload, list[str]]:
    upload = await Upload(wire.ann, "c", files).create()
    return upload, [node["uploadUrl"] for node in (await upload.announce()).values()]


async def test_all_parts_are_stored_and_the_version_can_be_made(wire):
    upload, addresses = await _announced(wire, FILES)
    assert await _post(wire, addresses, list(FILES.values())) == (200, '{"stored": 60}')
    assert {node["uploadUrl"] for node in (await upload.announce()).values()} == {None}
    await upload.send_manifest()
    assert "errors" not in await upload.commit()


async def test_one_wrong_part_is_refused_and_the_others_count(wire):
    upload, addresses = await _announced(wire, {"a": b"a", "b": b"b"})
    status, text = await _post(wire, addresses, [b"a", b"other"])
    assert status == 422
    assert "DIGEST_MISMATCH" in text
    places = await upload.announce()
    assert places["b"]["uploadUrl"] is not None


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda url: url.replace("/ann/", "/bob/"), 403),
        (lambda url: url.replace("signature=", "signature=x"), 403),
        (lambda url: url.partition("?")[0], 400),
        (lambda url: url.replace("/storage/contents/", "/storage/run-files/"), 400),
        (lambda url: "http://[", 400),
        (lambda url: "", 400),
    ],
)
async def test_each_part_needs_the_address_that_was_made_for_it(wire, change, status):
    upload, (address,) = await _announced(wire, {"a": b"a"})
    assert (await _post(wire, [change(address)], [b"a"]))[0] == status
    assert (await upload.announce())["a"]["uploadUrl"] is not None


async def test_what_is_no_batch_is_refused(wire):
    status, text = await _send(wire, b"x", "application/octet-stream")
    assert (status, KIND in text) == (400, True)
    for body in (
        b"x",
        b"x\n",
        b"1\nx",
        b"1 \nx",
        b"-1 /a\nx",
        b"1 /\xff\nx",
        b"1 " + b"a" * 300_000,
    ):
        status, text = await _send(wire, body)
        assert status == 400, text
        assert "INVALID_INPUT" in text


async def test_a_body_that_ends_too_early_is_told(wire):
    _, (address,) = await _announced(wire, {"b": b"bbb"})
    status, text = await _send(wire, f"3 {address}\nbb".encode())
    assert status == 400
    assert "ends in the middle" in text


async def test_a_part_has_a_limit_and_so_has_their_number(wire):
    _, (address,) = await _announced(wire, {"big": bytes(1024 * 1024 + 1)})
    assert (await _post(wire, [address], [bytes(1024 * 1024 + 1)]))[0] == 413
    _, (address,) = await _announced(wire, {"a": b"a"})
    assert (await _post(wire, [address] * 1001, [b"a"] * 1001))[0] == 400


@asynccontextmanager
async def _begun(wire, line: str):
    """A request whose body begins with that line, and is far from whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.server.port)
    head = f"POST /storage/contents HTTP/1.1\r\nHost: localhost\r\nContent-Type: {KIND}\r\n"
    writer.write(f"{head}Content-Length: {len(line) + 12}\r\n\r\n{line}".encode())
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def test_without_the_right_no_byte_is_waited_for(wire):
    _, (address,) = await _announced(wire, {"a": b"a" * 12})
    async with _begun(wire, f"12 {address}x\n") as (reader, _):
        assert b"403" in await reader.readline()


async def test_a_slow_link_may_take_longer_than_a_silent_one(wire, monkeypatch):
    monkeypatch.setattr(bodies, "_TIMEOUT", 1.0)
    _, (address,) = await _announced(wire, {"a": b"a" * 12})
    async with _begun(wire, f"12 {address}\n") as (reader, writer):
        for _ in range(12):
            await asyncio.sleep(0.15)
            writer.write(b"a")
        assert b"200" in await reader.readline()
