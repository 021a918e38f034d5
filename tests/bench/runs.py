"""Runs: what logging costs the server, and how fast many runs and long histories are read."""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from sqlalchemy import insert

from agent.config.control import ControlConfig
from agent.control.auth.policy import Principal
from agent.control.files.run_history import SampleSpec, sampled_values
from agent.control.files.run_streams import RunStreamStore
from agent.control.files.storage import open_folder
from agent.control.services.assembly import Services, open_services
from agent.control.services.run_streams import RunName
from agent.control.services.runs import RunChange
from agent.control.services.stream_update import parse_update
from agent.control.store.tables import runs as runs_table
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


async def logging(root: Path) -> list[Row]:
    """W&B's own client against a server: an empty run, a long one, and reading that back."""
    home = Home(root)
    home.timeout = 900
    home.configure({"control": {"port": free_port()}})
    try:
        async with wandb_user(home) as user:
            return [await _empty(user), *await _long(user)]
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


async def _long(user: WandbUser) -> list[Row]:
    assert user.daemon is not None
    pid = user.daemon.pid
    before = cpu_seconds(pid)
    await user.value("steps", "long", str(_STEPS), "0")
    used = cpu_seconds(pid) - before
    rows = await user.history("long")
    assert [row["_step"] for row in rows] == list(range(_STEPS))
    before = cpu_seconds(pid)
    seconds = await user.value("scan", "long", str(user.home.root / "rows.jsonl"))
    reading = cpu_seconds(pid) - before
    return [
        Row(
            f"one run logging {_STEPS:,} steps: server's CPU",
            f"{used:.1f} s",
            "–",
            "≤ 5 s",
            used <= 5,
        ),
        Row(
            f"scan_history of {_STEPS:,} rows",
            f"{seconds['scan']:.1f} s, of which server's CPU {reading:.1f} s",
            f"the same lines from disk with json {seconds['disk']:.2f} s",
            "≥ half the speed",
            seconds["scan"] <= 2 * seconds["disk"],
        ),
    ]


async def many(root: Path) -> list[Row]:
    """A page of a project with many runs, on both databases; charts of long histories."""
    rows = []
    async with _services(ControlConfig(data_dir=root / "sqlite")) as (plane, me):
        rows.append(await _page(plane, me, "SQLite"))
        rows.append(await _charts(plane, me, root))
    postgres = state.load().postgres
    assert postgres is not None
    name = f"bench_{time.time_ns()}"
    await _execute(postgres.url, f"CREATE DATABASE {name}")
    try:
        url = f"{postgres.url.rpartition('/')[0]}/{name}"
        config = ControlConfig(data_dir=root / "postgres", database_url=url)
        async with _services(config) as (plane, me):
            rows.append(await _page(plane, me, "PostgreSQL", url))
    finally:
        await _execute(postgres.url, f"DROP DATABASE {name} WITH (FORCE)")
    return rows


async def _execute(url: str, statement: str) -> None:
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


async def _page(plane: Services, me: Principal, database: str, url: str = "") -> Row:
    change = RunChange(config={"lr": {"value": 0.1}}, summary={"loss": 0.5})
    await plane.runs.upsert(me, change, project="p", name="first")

    def fill(tx: Tx) -> None:
        row = dict(tx.require(runs_table.select())._mapping)
        for start in range(0, _RUNS, 10_000):
            rows = [
                {**row, "seq": number + 10, "id": f"i{number}", "name": f"n{number}"}
                for number in range(start, start + 10_000)
            ]
            tx.run(insert(runs_table), rows)

    await plane.database.write(fill)
    if url:
        # As autovacuum does within a minute.
        await _execute(url, "VACUUM ANALYZE runs")
    seconds = []
    for _ in range(10):
        begin = time.monotonic()
        page = await plane.runs.list(me, None, "p", first=50)
        seconds.append(time.monotonic() - begin)
        assert (len(page.rows), page.total) == (50, _RUNS + 1)
    median = statistics.median(seconds)
    return Row(
        f"50 of {_RUNS:,} runs of a project, {database}, median of 10",
        f"{1000 * median:.0f} ms",
        "–",
        "≤ 100 ms",
        median <= 0.1,
    )


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
    spec = SampleSpec.parse({"keys": ["_step", "loss"], "samples": 500})
    seconds = []
    for _ in range(5):
        begin = time.monotonic()
        found = await asyncio.gather(*(sampled_values(store, run_id, spec) for run_id in ids))
        seconds.append(time.monotonic() - begin)
        assert [len(rows) for rows in found] == [500] * _CHARTS
    median = statistics.median(seconds)
    return Row(
        f"charts of {_CHARTS} runs × {_STEPS:,} points, median of 5",
        f"{1000 * median:.0f} ms",
        "–",
        "≤ 300 ms",
        median <= 0.3,
    )
