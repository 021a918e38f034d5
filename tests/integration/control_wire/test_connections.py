"""Half-sent requests and connections without number, from clients without a key."""

import asyncio
import resource
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from structlog.testing import capture_logs

from agent.control import bodies
from agent.control.middleware.connections import Connections
from tests.integration.control_wire.agents import Agent
from tests.integration.control_wire.uploading import Upload
from tests.integration.control_wire.wire import open_wire

HALF = b"POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le"


@asynccontextmanager
async def connected(wire, *, source: str = "127.0.0.1"):
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", wire.server.port, local_addr=(source, 0)
    )
    try:
        yield reader, writer
    finally:
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came before the server closed the connection; it does so within the test's time."""
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionError:
        return b""


@pytest.fixture
async def hasty(tmp_path):
    async with open_wire(tmp_path / "data", head_timeout="500ms") as opened:
        yield opened


@pytest.mark.parametrize(
    "sent", [b"", b"P", HALF, b"\r\n"], ids=["nothing", "letter", "half", "line"]
)
async def test_a_request_that_does_not_come_is_given_up(hasty, sent: bytes) -> None:
    async with connected(hasty) as (reader, writer):
        writer.write(sent)
        assert await ended(reader) == b""


async def test_a_head_in_drops_does_not_extend_its_time(hasty) -> None:
    async with connected(hasty) as (reader, writer):

        async def drip() -> None:
            while True:
                writer.write(b"X-Header: x\r\n")
                await asyncio.sleep(0.05)

        writer.write(b"GET / HTTP/1.1\r\n")
        dripping = asyncio.create_task(drip())
        try:
            assert await ended(reader) == b""
        finally:
            dripping.cancel()
            await asyncio.wait([dripping])


async def test_the_second_request_of_a_connection_has_a_time_too(hasty) -> None:
    async with connected(hasty) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"ok\n")
        # Idle for longer than a head may take, which is no offence.
        await asyncio.sleep(1.0)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"ok\n")
        writer.write(HALF)
        assert await ended(reader) == b""


async def test_a_request_that_waits_is_not_given_up(hasty) -> None:
    agent = await Agent.register(hasty.ann, "ann", "default")
    claims = await agent.claim(wait=2)
    assert claims == []


async def test_connections_of_one_address_leave_room_for_others(tmp_path) -> None:
    async with open_wire(
        tmp_path / "data", max_connections=40, max_connections_per_address=10
    ) as wire:
        async with AsyncExitStack() as stack:
            with capture_logs() as logged:
                opened = [
                    await stack.enter_async_context(connected(wire, source="127.0.0.2"))
                    for _ in range(30)
                ]
                for _, writer in opened:
                    writer.write(HALF)
                refused = [await ended(reader) for reader, _ in opened[10:]]
            assert refused == [b""] * 20
            lines = [each for each in logged if "too many are open" in each["event"]]
            assert len(lines) == 1
            assert await wire.nobody.status("GET", "/healthz") == 200
        # Once they are closed, the address may connect again.
        for _ in range(200):
            async with connected(wire, source="127.0.0.2") as (reader, writer):
                writer.write(
                    b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
                )
                if b"200 OK" in await ended(reader):
                    return
        pytest.fail("no connection was admitted again")


async def test_half_requests_do_not_use_up_the_files_of_the_process(tmp_path) -> None:
    """More connections than the limit: the server goes on to serve those it admitted."""
    async with open_wire(
        tmp_path / "data", max_connections=60, max_connections_per_address=20
    ) as wire:
        assert await wire.ann.data("{ viewer { username } }")
        async with AsyncExitStack() as stack:
            for number in range(100):
                source = f"127.0.0.{2 + number % 3}"
                _, writer = await stack.enter_async_context(connected(wire, source=source))
                writer.write(HALF)
            assert await wire.ann.data("{ viewer { username } }")
            assert (await wire.ann.data("{ viewer { username } }"))["viewer"]["username"] == "ann"


async def test_the_number_of_connections_follows_the_limit_of_open_files() -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    connections = Connections(None, 512, 20.0)
    assert connections.total < soft or soft < 64
    assert connections.per_address <= connections.total // 2


async def test_a_body_in_drops_is_given_up(hasty, monkeypatch) -> None:
    """Each byte is in time; all of them together are too slow."""
    monkeypatch.setattr(bodies, "_SLOWEST_AFTER", 0.2)
    content = {"f": b"x" * 100_000}
    upload = await Upload(hasty.ann, "c", content).create()
    address = (await upload.announce())["f"]["uploadUrl"].removeprefix(hasty.server.url)
    head = f"PUT {address} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    async with connected(hasty) as (reader, writer):
        writer.write(head.encode())
        answering = asyncio.create_task(reader.readline())
        while not answering.done():
            writer.write(b"x")
            await asyncio.sleep(0.05)
        assert (await answering).split()[1] == b"408"
    assert (await upload.announce())["f"]["uploadUrl"] is not None
