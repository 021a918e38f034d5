"""Runs: what logging costs the server, and how fast many runs and long histories are read."""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
from sqlalchemy import insert, select

from agent.config.control import ControlConfig
from agent.control.auth.policy import Principal
from agent.control.files.run_history import sampled_series
from agent.control.files.run_streams import RunStreamStore
from agent.control.files.storage import open_folder
from agent.control.services.assembly import Services, open_services
from agent.control.services.run_streams import RunName
from agent.control.services.runs import RunChange
from agent.control.services.stream_update import parse_update
from agent.control.store.run_tables import run_values
from agent.control.store.run_tables import runs as runs_table
from agent.control.store.tables import projects
from agent.control.store.tx import Tx
from tests.bench.ours import cpu_seconds
from tests.bench.table import Row
from tests.e2e.harness.home import Home
from tests.e2e.harness.wandb_runs import WandbUser, wandb_user
from tests.infrastructure import state
from tests.infrastructure.process import free_port

_STEPS = 100_000
_RUNS = 100_000
_CHARTS = 5
#: Runs that log at once, requests of each, and rows of a request.
_AT_ONCE = 100
_PARTS = 12
_PER_PART = 50
_PAUSE = 5.0


async def logging(root: Path) -> list[Row]:
    """W&B's own client against a server: an empty run, and a long one."""
    async with _wandb_user(root) as user:
        return [await _empty(user), await _long(user)]


async def scan(root: Path) -> list[Row]:
    """W&B's own client reads a long history."""
    async with _wandb_user(root) as user:
        assert user.daemon is not None
        await user.value("steps", "long", str(_STEPS), "0")
        before = cpu_seconds(user.daemon.pid)
        seconds = await user.value("scan", "long", str(user.home.root / "rows.jsonl"))
        reading = cpu_seconds(user.daemon.pid) - before
        return [
            Row(
                f"scan_history of {_STEPS:,} rows: server's CPU",
                f"{reading:.1f} s (with the client's own part {seconds['scan']:.1f} s)",
                f"the same lines from disk with json {seconds['disk']:.2f} s",
                "≥ half the speed",
                reading <= 2 * seconds["disk"],
            )
        ]


@asynccontextmanager
async def _wandb_user(root: Path) -> AsyncIterator[WandbUser]:
    root.mkdir(exist_ok=True)
    home = Home(root)
    home.timeout = 900
    home.configure({"control": {"port": free_port()}})
    try:
        async with wandb_user(home) as user:
            yield user
    finally:
        await home.close()


async def _empty(user: WandbUser) -> Row:
    online, offline = [], []
    for number in range(4):
        begin = time.monotonic()
        await user.value("steps", f"online{number}", "0", "0")
        online.append(time.monotonic() - begin)
        begin = time.monotonic()
        await user.value("steps", f"offline{number}", "0", "0", WANDB_MODE="offline")
        (folder,) = (user.folder / "wandb").glob(f"offline-run-*-offline{number}")
        synced = await user.wandb("sync", str(folder))
        offline.append(time.monotonic() - begin)
        assert synced.code == 0, synced.err
    ours, theirs = statistics.median(online[1:]), statistics.median(offline[1:])
    return Row(
        "wandb.init() … finish() of an empty run, median of 3",
        f"{ours:.1f} s",
        f"offline and `wandb sync` {theirs:.1f} s",
        f"≤ 1.2 × (here {ours / theirs:.2f} ×)",
        ours <= 1.2 * theirs,
    )


async def _long(user: WandbUser) -> Row:
    assert user.daemon is not None
    before = cpu_seconds(user.daemon.pid)
    await user.value("steps", "long", str(_STEPS), "0")
    used = cpu_seconds(user.daemon.pid) - before
    rows = await user.history("long")
    assert [row["_step"] for row in rows] == list(range(_STEPS))
    return Row(
        f"one run logging {_STEPS:,} steps: server's CPU", f"{used:.1f} s", "–", "≤ 5 s", used <= 5
    )


async def many(root: Path) -> list[Row]:
    """Many runs that log at once; pages of a project with many runs, on both databases."""
    rows = []
    async with _wandb_user(root / "server") as user:
        rows.append(await _at_once(user))
    async with _services(ControlConfig(data_dir=root / "sqlite")) as (plane, me):
        rows += await _pages(plane, me, "SQLite")
    postgres = state.load().postgres
    assert postgres is not None
    name = f"bench_{time.time_ns()}"
    await execute(postgres.url, f"CREATE DATABASE {name}")
    try:
        url = f"{postgres.url.rpartition('/')[0]}/{name}"
        config = ControlConfig(data_dir=root / "postgres", database_url=url)
        async with _services(config) as (plane, me):
            rows += await _pages(plane, me, "PostgreSQL", url)
    finally:
        await execute(postgres.url, f"DROP DATABASE {name} WITH (FORCE)")
    return rows


async def _at_once(user: WandbUser) -> Row:
    """As many processes of runs as talk to the file stream, each every 5 s (W&B's: every 15 s)."""
    auth = {"Authorization": aiohttp.encode_basic_auth("api", user.key)}
    entity = (await user.ask("query { viewer { entity } }"))["viewer"]["entity"]
    seconds: list[float] = []
    async with aiohttp.ClientSession(user.url, headers=auth) as session:

        async def log(number: int) -> None:
            begin = 'mutation ($n: String!) { upsertBucket(input: {name: $n, modelName: "vision"})'
            await user.ask(begin + " { inserted } }", n=f"run{number}")
            await asyncio.sleep(_PAUSE * number / _AT_ONCE)
            for part in range(_PARTS):
                steps = range(part * _PER_PART, (part + 1) * _PER_PART)
                lines = [json.dumps({"_step": n, "loss": n / 3, "_runtime": n}) for n in steps]
                body = {
                    "files": {
                        "wandb-history.jsonl": {"offset": steps.start, "content": lines},
                        "wandb-summary.json": {"offset": 0, "content": lines[-1:]},
                    }
                }
                sent = time.monotonic()
                path = f"/files/{entity}/vision/run{number}/file_stream"
                async with session.post(path, json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
                seconds.append(time.monotonic() - sent)
                await asyncio.sleep(_PAUSE)

        await asyncio.gather(*(log(number) for number in range(_AT_ONCE)))
    for number in range(_AT_ONCE):
        found = [row["_step"] for row in await user.history(f"run{number}")]
        assert found == list(range(_PARTS * _PER_PART)), f"run{number} has {len(found)} rows"
    slowest = max(seconds)
    return Row(
        f"{_AT_ONCE} runs logging at once, {len(seconds):,} requests: the slowest",
        f"{1000 * slowest:.0f} ms, median {1000 * statistics.median(seconds):.0f} ms",
        "–",
        "≤ 250 ms, every row there once",
        slowest <= 0.25,
    )


async def execute(url: str, statement: str) -> None:
    """Run one statement on PostgreSQL."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def _services(config: ControlConfig) -> AsyncIterator[tuple[Services, Principal]]:
    async with open_services(config) as plane:
        account = await plane.accounts.bootstrap_local("ann")
        yield plane, await plane.accounts.authenticate(account.api_key)


async def _pages(plane: Services, me: Principal, database: str, url: str = "") -> list[Row]:
    await plane.runs.upsert(me, RunChange(), project="p", name="first")

    def fill(tx: Tx) -> None:
        first = tx.require(select(runs_table))
        number = tx.require(select(projects.c.number).where(projects.c.name == "p")).number
        place = {"project_number": number, "number": None, "text": None}
        for start in range(0, _RUNS, 10_000):
            numbers = range(start, start + 10_000)
            rows = [
                {**first._mapping, "seq": n + 10, "id": f"i{n}", "name": f"n{n}"} for n in numbers
            ]
            tx.run(insert(runs_table), rows)
            values = []
            for n in numbers:
                here = {"run_seq": n + 10, **place}
                values.append({**here, "key": "summary.loss", "number": n / 7})
                values.append({**here, "key": "config.kind", "text": f"kind-{n % 1000}"})
            tx.run(insert(run_values), values)

    await plane.database.write(fill)
    if url:
        # As autovacuum does within a minute.
        await execute(url, "VACUUM ANALYZE runs")
        await execute(url, "VACUUM ANALYZE run_values")
    return [await _page(plane, me, database, *each) for each in _PAGES]


#: What a page asks for: in words, its order and filter, and how many runs there are.
_PAGES: Final[list[tuple[str, str, Any, int]]] = [
    ("the newest", "-created_at", None, _RUNS + 1),
    ("the best by summary", "+summary_metrics.loss", None, _RUNS + 1),
    ("those of a config value", "-created_at", {"config.kind": "kind-7"}, _RUNS // 1000),
]


async def _page(
    plane: Services, me: Principal, database: str, what: str, order: str, filters: Any, total: int
) -> Row:
    seconds = []
    for _ in range(10):
        begin = time.monotonic()
        page = await plane.runs.list(me, None, "p", first=50, order=order, filters=filters)
        seconds.append(time.monotonic() - begin)
        assert (len(page.rows), page.total) == (50, total)
    median = statistics.median(seconds)
    return Row(
        f"50 of {_RUNS:,} runs of a project, {what}, {database}, median of 10",
        f"{1000 * median:.0f} ms",
        "–",
        "≤ 100 ms",
        median <= 0.1,
    )


async def charts(root: Path) -> list[Row]:
    """What the page of a project draws of long histories."""
    async with _services(ControlConfig(data_dir=root / "sqlite")) as (plane, me):
        return [await _charts(plane, me, root)]


async def _charts(plane: Services, me: Principal, root: Path) -> Row:
    store = RunStreamStore(await open_folder(root / "objects"), plane.run_streams, plane.stored)
    ids = []
    for number in range(_CHARTS):
        run, _ = await plane.runs.upsert(me, RunChange(), project="charts", name=f"c{number}")
        ids.append(run.id)
        for start in range(0, _STEPS, 20_000):
            numbers = range(start, start + 20_000)
            lines = [
                json.dumps({"_step": n, "_timestamp": 1.7e9 + n, "_runtime": n / 7, "loss": n / 3})
                for n in numbers
            ]
            sent = {"files": {"wandb-history.jsonl": {"offset": start, "content": lines}}}
            update = parse_update(json.dumps(sent).encode())
            await store.write(me, RunName("ann", "charts", f"c{number}"), update)
    seconds = []
    for _ in range(5):
        begin = time.monotonic()
        found = await asyncio.gather(
            *(sampled_series(store, run_id, "history", {"loss": None}, 500) for run_id in ids)
        )
        seconds.append(time.monotonic() - begin)
        assert [len(lines["loss"].values) for lines in found] == [500] * _CHARTS
    median = statistics.median(seconds)
    return Row(
        f"charts of {_CHARTS} runs × {_STEPS:,} points, median of 5",
        f"{1000 * median:.0f} ms",
        "–",
        "≤ 300 ms",
        median <= 0.3,
    )
