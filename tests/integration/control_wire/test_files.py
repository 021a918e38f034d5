"""Logs over HTTP."""

import asyncio
import contextlib
import hashlib
import io

import aiohttp
import pytest

from tests.integration.control_wire.agents import submitted_and_claimed
from tests.integration.control_wire.wire import SPEC


@pytest.fixture
async def held(wire):
    """An agent that holds one item."""
    return await submitted_and_claimed(wire.ann, SPEC)


def _log(claim, channel="job", **query):
    text = "&".join(f"{name}={value}" for name, value in query.items())
    item, attempt = claim["itemId"], claim["attempt"]
    return f"/launch/items/{item}/attempts/{attempt}/logs/{channel}?{text}"


async def _append(wire, claim, offset, data, channel="job"):
    path = _log(claim, channel, epoch=claim["epoch"], offset=offset)
    async with wire.ann.request("POST", path, data=io.BytesIO(data)) as answer:
        assert answer.status == 200, await answer.text()
        return (await answer.json())["end"]


async def _finish(agent, claim):
    assert await agent.write("permitLaunchStart", "LeaseInput", claim) == "HELD"
    outcome = {"phase": "SUCCEEDED", "cause": "SUCCEEDED", "message": "exit code 0", "exitCode": 0}
    answer = await agent.write("finishLaunchItem", "FinishLaunchItemInput", claim, **outcome)
    assert answer == "HELD"


async def test_a_log_is_appended_looked_up_and_read(wire, held):
    agent, claim = held
    assert await _append(wire, claim, 0, b"one\n") == 4
    assert await _append(wire, claim, 0, b"one\ntwo\r") == 8
    assert await _append(wire, claim, 99, b"gap") == 8
    async with wire.ann.request("HEAD", _log(claim)) as answer:
        assert answer.headers["Launch-Log-End"] == "8"
    async with wire.ann.request("GET", _log(claim, offset=2, limit=4)) as answer:
        assert await answer.read() == b"e\ntw"
        assert answer.headers["Launch-Log-End"] == "8"
        assert answer.headers["Launch-Log-Complete"] == "false"
        assert answer.content_type == "text/plain"
    async with wire.ann.request("GET", _log(claim, offset=100)) as answer:
        assert await answer.read() == b""
    async with wire.ann.request("GET", _log(claim, "setup")) as answer:
        assert await answer.read() == b""
    await _finish(agent, claim)
    async with wire.ann.request("GET", _log(claim)) as answer:
        assert await answer.read() == b"one\ntwo\r"
        assert answer.headers["Launch-Log-Complete"] == "true"


async def test_following_ends_when_the_attempt_is_over_and_all_was_sent(wire, held):
    agent, claim = held
    await _append(wire, claim, 0, b"early ")
    seen = bytearray()
    async with wire.ann.request("GET", _log(claim, offset=2, follow=1)) as answer:
        assert answer.status == 200
        async with asyncio.timeout(10):
            seen += await answer.content.readany()
            await _append(wire, claim, 6, b"late ")
            seen += await answer.content.readany()
            await _append(wire, claim, 11, b"last")
            await _finish(agent, claim)
            seen += await answer.content.read()
    assert bytes(seen) == b"rly late last"


async def test_following_ends_when_the_server_stops(tmp_path, wire, held):
    _, claim = held
    async with wire.ann.request("GET", _log(claim, follow=1)) as answer:
        assert answer.status == 200
        stopping = asyncio.create_task(wire.server.stop())
        async with asyncio.timeout(4):
            assert await answer.content.read() == b""
        await stopping


async def test_a_follower_that_leaves_is_forgotten(wire, held):
    agent, claim = held
    async with wire.ann.request("GET", _log(claim, follow=1)) as answer:
        assert answer.status == 200
    await _append(wire, claim, 0, b"x")
    await _finish(agent, claim)


async def test_another_epoch_is_fenced(wire, held):
    _, claim = held
    path = _log(claim, epoch=claim["epoch"] + 1, offset=0)
    async with wire.ann.request("POST", path, data=b"x") as answer:
        assert answer.status == 409
        assert (await answer.json())["errors"][0]["extensions"]["code"] == "FENCED"


@pytest.mark.parametrize(
    "query", [{}, {"epoch": 1}, {"offset": 0}, {"epoch": "x", "offset": 0},
              {"epoch": 1, "offset": -1}, {"epoch": 1, "offset": "9" * 30}]
)  # fmt: skip
async def test_missing_and_malformed_numbers_are_named(wire, held, query):
    _, claim = held
    async with wire.ann.request("POST", _log(claim, **query), data=b"x") as answer:
        assert answer.status == 400
        assert "whole number" in (await answer.json())["errors"][0]["message"]


async def test_a_piece_beyond_four_mebibytes_is_refused(wire, held):
    _, claim = held
    path = _log(claim, epoch=claim["epoch"], offset=0)
    assert await wire.ann.status("POST", path, data=io.BytesIO(b"x" * (4 * 1024**2 + 1))) == 413

    async def streamed():
        for _ in range(5):
            yield b"x" * 1024**2

    # The server may close before all has been sent; nothing may be stored then either.
    with contextlib.suppress(aiohttp.ClientError):
        assert await wire.ann.status("POST", path, data=streamed()) == 413
    async with wire.ann.request("HEAD", _log(claim)) as answer:
        assert answer.headers["Launch-Log-End"] == "0"


@pytest.mark.parametrize("path", ["x/logs/other", "1/logs/other", "0x1/logs/job"])
async def test_a_log_that_cannot_be_is_refused(wire, path):
    assert await wire.ann.status("GET", f"/launch/items/abc/attempts/{path}") in {400, 404}


async def test_an_unknown_item_and_a_hidden_one_look_the_same(wire, held):
    _, claim = held
    bob = await wire.user("bob")
    async with bob.request("GET", _log(claim)) as hidden:
        pass
    async with bob.request("GET", _log(claim | {"itemId": "aaaabbbbcccc"})) as absent:
        pass
    assert hidden.status == absent.status == 404


async def test_a_log_of_many_megabytes_passes_within_bounded_memory(wire, held):
    _, claim = held
    piece = bytes(range(256)) * 8192
    for number in range(24):
        assert await _append(wire, claim, number * len(piece), piece) == (number + 1) * len(piece)
    digest, size = hashlib.sha256(), 0
    async with wire.ann.request("GET", _log(claim)) as answer:
        async for data in answer.content.iter_any():
            digest.update(data)
            size += len(data)
    assert size == 24 * len(piece)
    assert digest.hexdigest() == hashlib.sha256(piece * 24).hexdigest()
