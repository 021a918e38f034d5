"""One key sends ten times what it may; what the others feel, beside the same without it.

`python -m tests.bench.flood URL KEY RATE` is a sender, a process of its own, which sends until its
standard input is closed. Several of them send at a time, over plain sockets, so that they take
little of the processor that the server needs.
"""

import asyncio
import base64
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from tests.bench.table import Row
from tests.e2e.harness.home import Home
from tests.infrastructure.process import free_port

#: Requests per second of one key, and at once.
LIMIT = 20
#: Times the limit that is sent, and by how many processes.
TIMES, SENDERS = 10, 3
#: Connections of each sender: a refusal takes a quarter of a second.
CONNECTIONS = 40
ITEMS = "query Items { launchItems(first: 20) { edges { node { id phase name } } totalCount } }"
#: Rounds without and with the load, in turn, and requests in each.
ROUNDS, REQUESTS = 4, 150


async def flood(root: Path) -> list[Row]:
    """p99 of somebody else's queries."""
    port = free_port()
    home = Home(root)
    limits = {"request_burst": LIMIT, "requests_per_second": LIMIT}
    home.configure({"control": {"port": port} | limits})
    await home.start("launch", "server")
    url = f"http://127.0.0.1:{port}"
    quiet: list[float] = []
    loaded: list[float] = []
    rates: list[float] = []
    try:
        robot, mallory = await user_key(home, "robot"), await user_key(home, "mallory")
        async with _session(robot) as session:
            await _durations(session, url, 20)
            for _ in range(ROUNDS):
                quiet += await _durations(session, url, REQUESTS)
                async with _sending(url, mallory, rates):
                    loaded += await _durations(session, url, REQUESTS)
    finally:
        await home.close()
    before, after = (1000 * statistics.quantiles(one, n=100)[98] for one in (quiet, loaded))
    medians = [1000 * statistics.median(one) for one in (quiet, loaded)]
    ratio, times = after / before, min(rates) / LIMIT
    return [
        Row(
            f"query of one key while another sends {times:.0f} times its limit, p99",
            f"{after:.1f} ms (median {medians[1]:.1f})",
            f"without the load {before:.1f} ms (median {medians[0]:.1f})",
            f"≤ 2 × (here {ratio:.1f} ×)",
            ratio <= 2 and times >= TIMES - 0.5,
        )
    ]


async def user_key(home: Home, name: str) -> str:
    """Of a user; both pace themselves within their limits but for the load."""
    assert (await home.launch("user", "create", name)).code == 0
    made = await home.launch("key", "create", "--for-user", name, "--json")
    key: str = made.json()["key"]
    return key


def _basic(key: str) -> str:
    return f"Basic {base64.b64encode(f'api:{key}'.encode()).decode()}"


def _session(key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"Authorization": _basic(key)})


async def _durations(session: aiohttp.ClientSession, url: str, count: int) -> list[float]:
    """Seconds of each of so many requests, sent as slowly as the limit asks for."""
    found = []
    for _ in range(count):
        begin = time.perf_counter()
        async with session.post(f"{url}/graphql", json={"query": ITEMS}) as answer:
            reply = await answer.json()
        found.append(time.perf_counter() - begin)
        assert answer.status == 200, reply
        await asyncio.sleep(1 / LIMIT)
    return found


@asynccontextmanager
async def _sending(url: str, key: str, rates: list[float]) -> AsyncIterator[None]:
    """The load, from the first refusal of each sender on, while the block lasts.

    Its requests per second are added to `rates`.
    """
    rate = TIMES * LIMIT / SENDERS
    arguments = ("-m", "tests.bench.flood", url, key, str(rate))
    pipe = asyncio.subprocess.PIPE
    senders = [
        await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe)
        for _ in range(SENDERS)
    ]
    for sender in senders:
        assert sender.stdout is not None
        await sender.stdout.readline()
    try:
        yield
    finally:
        outputs = [(await sender.communicate(b""))[0] for sender in senders]
        told = [json.loads(output) for output in outputs]
        rates.append(sum(one["rate"] for one in told))
        refused = sum(one["refused"] for one in told)
        print(f"  load: {rates[-1]:.0f} requests per second, {refused} refused", file=sys.stderr)


async def _send(url: str, key: str, rate: float) -> None:
    """Send at a rate until standard input is closed; print how much was sent and refused."""
    address = urlsplit(url)
    body = json.dumps({"query": ITEMS}).encode()
    request = (
        f"POST /graphql HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: {_basic(key)}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    statuses: Counter[bytes] = Counter()

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        due = time.monotonic() + number / rate
        try:
            while True:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += CONNECTIONS / rate
                writer.write(request)
                status = await _status(reader)
                statuses[status] += 1
                if status == b"429" and statuses[status] == 1:
                    print("refused", flush=True)
        finally:
            writer.transport.abort()

    tasks = [asyncio.create_task(connection(number)) for number in range(CONNECTIONS)]
    begin = time.monotonic()
    await asyncio.to_thread(sys.stdin.read)
    seconds = time.monotonic() - begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps({"rate": statuses.total() / seconds, "refused": statuses[b"429"]}))


async def _status(reader: asyncio.StreamReader) -> bytes:
    """Read one response."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return head.split(b" ", 2)[1]


if __name__ == "__main__":
    asyncio.run(_send(sys.argv[1], sys.argv[2], float(sys.argv[3])))
