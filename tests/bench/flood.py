"""One key sends ten times what it may; what the others feel, beside the same without it.

`python -m tests.bench.flood URL KEY RATE` is the sender, a process of its own, which sends until it
is ended.
"""

import asyncio
import base64
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.bench.table import Row
from tests.e2e.harness.home import Home
from tests.infrastructure.process import free_port

#: Requests per second of one key, and at once.
LIMIT = 20
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
    try:
        robot, mallory = await _key(home, "robot"), await _key(home, "mallory")
        quiet: list[float] = []
        loaded: list[float] = []
        async with _session(robot) as session:
            await _durations(session, url, 20)
            for _ in range(ROUNDS):
                quiet += await _durations(session, url, REQUESTS)
                async with _sending(url, mallory, 10 * LIMIT):
                    loaded += await _durations(session, url, REQUESTS)
    finally:
        await home.close()
    before, after = (1000 * statistics.quantiles(one, n=100)[98] for one in (quiet, loaded))
    ratio = after / before
    return [
        Row(
            "query of one key while another sends ten times its limit, p99",
            f"{after:.1f} ms",
            f"without the load {before:.1f} ms",
            f"≤ 2 × (here {ratio:.1f} ×)",
            ratio <= 2,
        )
    ]


async def _key(home: Home, name: str) -> str:
    """Of a user; both pace themselves within their limits but for the load."""
    assert (await home.launch("user", "create", name)).code == 0
    made = await home.launch("key", "create", "--for-user", name, "--json")
    key: str = made.json()["key"]
    return key


def _session(key: str) -> aiohttp.ClientSession:
    basic = base64.b64encode(f"api:{key}".encode()).decode()
    return aiohttp.ClientSession(headers={"Authorization": f"Basic {basic}"})


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
async def _sending(url: str, key: str, rate: int) -> AsyncIterator[None]:
    """The load, from its first refusal on, while the block lasts."""
    arguments = ("-m", "tests.bench.flood", url, key, str(rate))
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=pipe, stdout=pipe
    )
    assert child.stdout is not None
    await child.stdout.readline()
    try:
        yield
    finally:
        out, _ = await child.communicate(b"")
        print(f"  load: {out.decode().strip()} refused", file=sys.stderr)


async def _send(url: str, key: str, rate: int) -> None:
    """Send at a rate until standard input is closed; print how many were answered and refused."""
    sent: dict[int, int] = {}
    workers = 20

    async def worker(session: aiohttp.ClientSession, number: int) -> None:
        due = time.monotonic() + number / rate
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += workers / rate
            async with session.post(f"{url}/graphql", json={"query": ITEMS}) as answer:
                await answer.read()
                sent[answer.status] = sent.get(answer.status, 0) + 1
                if answer.status == 429 and sent[429] == 1:
                    print("refused", flush=True)

    async with _session(key) as session:
        tasks = [asyncio.create_task(worker(session, number)) for number in range(workers)]
        begin = time.monotonic()
        await asyncio.to_thread(sys.stdin.read)
        seconds = time.monotonic() - begin
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    print(f"{sum(sent.values()) / seconds:.0f} requests per second, {sent.get(429, 0)}")


if __name__ == "__main__":
    asyncio.run(_send(sys.argv[1], sys.argv[2], int(sys.argv[3])))
