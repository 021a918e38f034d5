"""How many items a control plane takes, and what waiting agents cost it.

`python -m tests.bench.control --store sqlite --agents 10,200 --items 1500` measures a closed loop,
`--rate` adds an open loop, `--waiting` the cost of agents that wait. Server and driver share the
machine. Figures of two versions compare only if both were taken in turn on the same machine:
`--tree FOLDER` takes `launch` from the environment of another checkout.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.flood import user_key
from tests.bench.ours import PAUSE, SAVE, cpu_seconds, resident
from tests.bench.simulated_agents import Fleet
from tests.bench.table import Row
from tests.e2e.harness.home import Home
from tests.faults.campaign.database import empty_database
from tests.infrastructure.process import free_port

STORES = ("sqlite", "postgres")
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


@dataclass(frozen=True)
class Server:
    """A running server with an empty store."""

    url: str
    key: str
    pid: int

    @property
    def cpu(self) -> float:
        return cpu_seconds(self.pid)


@asynccontextmanager
async def server(store: str, tree: Path | None = None) -> AsyncIterator[Server]:
    """`launch server` of this environment, or of another checkout's."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with empty_database(store) as database:
            home, port = Home(Path(folder)), free_port()
            limits = {
                "request_burst": 10**6, "requests_per_second": 10**6,
                "max_connections_per_address": 10**4,
            }  # fmt: skip
            where = {} if database is None else {"database_url": database}
            home.configure({"control": {"port": port} | limits | where})
            program = "launch" if tree is None else str(tree / ".venv" / "bin" / "launch")
            daemon = await home.start(program, "server")
            try:
                key = await user_key(home, "driver")
                yield Server(f"http://127.0.0.1:{port}", key, daemon.pid)
            finally:
                await home.close()


@dataclass(frozen=True)
class Pace:
    """A closed loop: every agent claims again as soon as it is done."""

    rate: float
    #: Milliseconds.
    p50: float
    p99: float
    cpu_each: float
    renewal_p99: float
    memory: float
    refused: int


async def closed_loop(one: Server, agents: int, items: int) -> Pace:
    fleet, begin = Fleet(one.url, one.key), asyncio.Event()
    async with fleet.working(agents, begin):
        await _queue(fleet, items)
        fleet.seen.expect(items)
        cpu, began = one.cpu, time.monotonic()
        await fleet.query(PAUSE, name="default", paused=False)
        begin.set()
        await fleet.seen.done.wait()
        seconds, cpu = time.monotonic() - began, one.cpu - cpu
    _check(fleet, items)
    return Pace(
        items / seconds,
        *_percentiles(fleet.seen.claims),
        1000 * cpu / items,
        _percentiles(fleet.seen.renewals)[1],
        resident(one.pid),
        fleet.refused,
    )


async def _queue(fleet: Fleet, items: int) -> None:
    saved = {"name": "default", "resource": "local-container", "mode": "EITHER"}
    await fleet.query(SAVE, input=saved)
    await fleet.query(PAUSE, name="default", paused=True)
    await fleet.submit_many(items)


def _check(fleet: Fleet, items: int) -> None:
    seen = fleet.seen
    seen_all = (seen.finished, seen.doubled, seen.fenced)
    assert seen_all == (items, 0, 0), f"finished, doubled, fenced: {seen_all}"


@dataclass(frozen=True)
class Paced:
    """An open loop: items come at a rate while agents wait; milliseconds."""

    rate: float
    #: From the submission's request until an agent had the item.
    p50: float
    p99: float
    cpu_each: float
    renewal_p99: float


async def open_loop(one: Server, agents: int, per_second: float, seconds: float) -> Paced:
    fleet, begin = Fleet(one.url, one.key), asyncio.Event()
    begin.set()
    items = int(per_second * seconds)
    async with fleet.working(agents, begin):
        await fleet.submit_paced(5, 5)
        cpu, began = one.cpu, time.monotonic()
        latencies = await fleet.submit_paced(items, per_second)
        took, cpu = time.monotonic() - began, one.cpu - cpu
    _check(fleet, items + 5)
    renewal = _percentiles(fleet.seen.renewals)[1]
    return Paced(items / took, *_percentiles(latencies), 1000 * cpu / items, renewal)


@dataclass(frozen=True)
class Waiting:
    """Agents that wait for work."""

    #: Share of a core.
    idle: float
    renewal_p50: float
    renewal_p99: float
    #: Milliseconds of the server for one item from its submission to its end.
    cpu_each: float
    claim_p50: float


async def waiting(one: Server, agents: int, seconds: float = 20.0, items: int = 40) -> Waiting:
    fleet, begin = Fleet(one.url, one.key), asyncio.Event()
    begin.set()
    async with fleet.working(agents, begin):
        await fleet.submit_paced(5, 5)
        fleet.seen.renewals.clear()
        cpu, began = one.cpu, time.monotonic()
        await asyncio.sleep(seconds)
        idle = (one.cpu - cpu) / (time.monotonic() - began)
        p50, p99 = _percentiles(fleet.seen.renewals)
        cpu, began = one.cpu, time.monotonic()
        latencies = await fleet.submit_paced(items, 8)
        took = time.monotonic() - began
        each = (one.cpu - cpu - idle * took) / items
    return Waiting(idle, p50, p99, 1000 * each, _percentiles(latencies)[0])


def _percentiles(durations: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds."""
    if len(durations) < 2:
        return 0.0, 0.0
    return 1000 * statistics.median(durations), 1000 * statistics.quantiles(durations, n=100)[98]


async def control(_root: Path) -> list[Row]:
    """The promises of a control plane under load, on both stores."""
    rows: list[Row] = []
    for store in STORES:
        rows += await _rows(store)
    return rows


async def _rows(store: str) -> list[Row]:
    name = NAMES[store]
    async with server(store) as one:
        many = await closed_loop(one, 200, 4000)
        more = await closed_loop(one, 500, 4000)
        paced = await open_loop(one, 200, 62, 20)
        few, crowd = await waiting(one, 10), await waiting(one, 500)
    ratio = crowd.cpu_each / few.cpu_each
    return [
        Row(
            f"control plane on {name}: 200 agents, closed loop",
            f"{many.rate:.0f} items/s, {many.cpu_each:.1f} ms of CPU each",
            "–",
            "≥ 125 items/s",
            many.rate >= 125,
        ),
        Row(
            f"{name}: the same with 500 agents",
            f"{more.rate:.0f} items/s",
            f"200 agents {many.rate:.0f} items/s",
            "≥ 95 %",
            more.rate >= 0.95 * many.rate,
        ),
        Row(
            f"{name}: submit → claimed at 62 items/s, 200 agents waiting",
            f"p50 {paced.p50:.0f} ms, p99 {paced.p99:.0f} ms",
            "–",
            "p99 ≤ 20 ms",
            paced.p99 <= 20,
        ),
        Row(
            f"{name}: one item, 500 agents waiting",
            f"{crowd.cpu_each:.1f} ms of CPU",
            f"10 agents waiting {few.cpu_each:.1f} ms",
            f"± 20 % (here {ratio:.2f} ×)",
            0.8 <= ratio <= 1.2,
        ),
        Row(
            f"{name}: 500 idle agents",
            f"{100 * crowd.idle:.1f} % of a core, renewal p99 {crowd.renewal_p99:.0f} ms",
            f"10 idle agents {100 * few.idle:.1f} %",
            "≤ 5 % of a core, p99 ≤ 50 ms",
            crowd.idle <= 0.05 and crowd.renewal_p99 <= 50,
        ),
    ]


def _numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",") if one]


async def _measure(chosen: argparse.Namespace) -> None:
    for store in chosen.store.split(","):
        print(NAMES[store], flush=True)
        async with server(store, chosen.tree) as one:
            for agents in _numbers(chosen.agents):
                print(f"  {agents} agents, closed:", await closed_loop(one, agents, chosen.items))
            for rate in _numbers(chosen.rate):
                print(f"  200 agents at {rate}/s:", await open_loop(one, 200, rate, 15))
            for agents in _numbers(chosen.waiting):
                print(f"  {agents} waiting:", await waiting(one, agents), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.control", description=__doc__)
    parser.add_argument("--store", default=",".join(STORES))
    parser.add_argument("--agents", default="", help="of closed loops: 1,10,200")
    parser.add_argument("--items", type=int, default=1000, help="of each closed loop")
    parser.add_argument("--rate", default="", help="items per second of open loops: 20,40")
    parser.add_argument("--waiting", default="", help="agents that wait: 10,500")
    parser.add_argument("--tree", type=Path)
    asyncio.run(_measure(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
