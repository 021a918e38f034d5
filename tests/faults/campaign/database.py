"""A database of the campaign's own."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.infrastructure import state


@asynccontextmanager
async def empty_database(store: str) -> AsyncIterator[str | None]:
    """The address of an empty PostgreSQL database, dropped at the end; nothing for SQLite."""
    if store == "sqlite":
        yield None
        return
    facts = state.load().postgres
    assert facts is not None, "PostgreSQL is not up: run `tests/services up postgres`"
    name = f"launch_campaign_{secrets.token_hex(6)}"
    await _execute(facts.url, f"CREATE DATABASE {name}")
    try:
        yield f"{facts.url.rpartition('/')[0]}/{name}"
    finally:
        await _execute(facts.url, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
