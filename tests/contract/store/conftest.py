"""Every test of this folder runs against both databases."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from agent.config.control import ControlConfig
from tests.contract.store.world import World, open_world, remove_all_rows
from tests.infrastructure import state

BOTH = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
]


def _execute(url: str, statement: str) -> None:
    async def go() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(go())


@pytest.fixture(scope="session")
def make_postgres_database(services: state.Facts) -> Iterator[Callable[[], str]]:
    """Makes databases of one's own; they are dropped at the end."""
    made: list[str] = []
    server = services.postgres.url if services.postgres else ""

    def make() -> str:
        name = f"launch_store_{secrets.token_hex(6)}"
        _execute(server, f"CREATE DATABASE {name}")
        made.append(name)
        return f"{server.rpartition('/')[0]}/{name}"

    yield make
    for name in made:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_database(make_postgres_database: Callable[[], str]) -> str:
    """One database for the session: tests empty it, which is quicker than making it."""
    return make_postgres_database()


@pytest.fixture
def new_postgres_database(make_postgres_database: Callable[[], str]) -> str:
    """One for a test whose processes of the control plane are several."""
    return make_postgres_database()


@pytest.fixture(params=BOTH)
def store_config(request: pytest.FixtureRequest, tmp_path: Path) -> ControlConfig:
    if request.param == "sqlite":
        return ControlConfig(data_dir=tmp_path)
    url = request.getfixturevalue("postgres_database")
    return ControlConfig(data_dir=tmp_path, database_url=url)


@pytest.fixture
async def world(store_config: ControlConfig) -> AsyncIterator[World]:
    async with open_world(store_config) as world:
        yield world
        if store_config.database_url is not None:
            await world.plane.database.write(remove_all_rows)
