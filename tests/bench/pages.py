"""Lists in pages: how long the server takes with many items, on both databases."""

import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from sqlalchemy import insert

from agent.config.control import ControlConfig
from agent.control.server import ControlPlane
from agent.control.store.items import Submission
from agent.control.store.tables import items
from agent.control.store.tx import Tx
from agent.model.phase import Phase
from tests.bench.runs import execute
from tests.bench.table import Row
from tests.infrastructure import state

_ITEMS = 100_000
_PHASES = (Phase.SUCCEEDED, Phase.FAILED, Phase.QUEUED, Phase.STOPPED)
_PAGES = {
    "queues": "/launch",
    "items": "/launch/items",
    "items, a name that none has": "/launch/items?find=no+such+name",
    "items, four filters": "/launch/items?find=9&phase=failed&author=user3&job=job2",
    "items of a queue": "/launch/queues/ann/default",
    "items of a queue, two filters": "/launch/queues/ann/default?phase=failed&find=no+such+name",
}


async def pages(root: Path) -> list[Row]:
    """Each list of items among 100,000."""
    rows = await _measure(ControlConfig(port=0, data_dir=root / "sqlite"), "SQLite")
    postgres = state.load().postgres
    assert postgres is not None
    name = f"bench_{time.time_ns()}"
    await execute(postgres.url, f"CREATE DATABASE {name}")
    try:
        url = f"{postgres.url.rpartition('/')[0]}/{name}"
        config = ControlConfig(port=0, data_dir=root / "postgres", database_url=url)
        rows += await _measure(config, "PostgreSQL", url)
    finally:
        await execute(postgres.url, f"DROP DATABASE {name} WITH (FORCE)")
    return rows


@asynccontextmanager
async def _filled(config: ControlConfig, url: str) -> AsyncIterator[tuple[ControlPlane, str]]:
    """A server with many items on one queue, and a key."""
    async with ControlPlane(config) as server:
        plane = server.services
        account = await plane.accounts.bootstrap_local("ann")
        me = await plane.accounts.authenticate(account.api_key)
        image = {"docker": {"docker_image": "busybox"}, "name": "first"}
        await plane.items.submit(me, Submission(None, None, "default", image))

        def fill(tx: Tx) -> None:
            row = dict(tx.require(items.select())._mapping)
            for start in range(0, _ITEMS, 10_000):
                rows = [
                    {
                        **row,
                        "seq": row["seq"] + 1 + number,
                        "id": f"i{number:011}",
                        "phase": _PHASES[number % len(_PHASES)].value,
                        "display_name": f"item {number}",
                        "job": f"ann/default/job{number % 7}",
                        "author": f"user{number % 5}",
                    }
                    for number in range(start, start + 10_000)
                ]
                tx.run(insert(items), rows)

        await plane.database.write(fill)
        if url:
            # As autovacuum does within a minute.
            await execute(url, "VACUUM ANALYZE items")
        yield server, account.api_key


async def _measure(config: ControlConfig, database: str, url: str = "") -> list[Row]:
    found = []
    async with _filled(config, url) as (server, key):
        auth = aiohttp.BasicAuth("api", key)
        async with aiohttp.ClientSession(server.url, auth=auth) as session:
            for name, path in _PAGES.items():
                seconds = []
                for _ in range(11):
                    begin = time.perf_counter()
                    async with session.get(path) as answer:
                        text = await answer.text()
                    seconds.append(time.perf_counter() - begin)
                    assert answer.status == 200, text
                median = statistics.median(seconds[1:])
                what = f"page: {name}, {_ITEMS:,} items, {database}, median of 10"
                row = Row(what, f"{1000 * median:.0f} ms", "–", "≤ 100 ms", median <= 0.1)
                found.append(row)
    return found
