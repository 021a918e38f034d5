"""Migrations end at the tables, and the claim uses its index."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, insert, text
from sqlalchemy.ext.asyncio import create_async_engine

from agent.control.store import claimable, items
from agent.control.store.migrate import HEAD, migrate, upgrade, version
from agent.control.store.tables import items as items_table
from agent.control.store.tables import metadata
from agent.control.store.tx import Tx
from agent.model.capacity import Capacity
from tests.contract.store.conftest import BOTH
from tests.contract.store.world import World


@pytest.fixture(params=BOTH)
def inside(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Any]:
    """Runs a function in a transaction of an empty database."""
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path / 'empty.db'}")

        def run(work: Any) -> Any:
            try:
                with engine.begin() as connection:
                    return work(connection)
            finally:
                engine.dispose()

        return run
    url = request.getfixturevalue("make_postgres_database")()

    def run_async(work: Any) -> Any:
        async def go() -> Any:
            engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
            try:
                async with engine.begin() as connection:
                    return await connection.run_sync(work)
            finally:
                await engine.dispose()

        return asyncio.run(go())

    return run_async


def differences(connection: Connection) -> list[Any]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"compare_type": False})
    return list(compare_metadata(context, metadata))


def test_migrations_from_nothing_end_at_the_tables(inside) -> None:
    inside(upgrade)
    assert inside(version) == HEAD
    assert inside(differences) == []


def test_an_empty_database_gets_the_tables_at_once(inside) -> None:
    inside(migrate)
    assert inside(version) == HEAD
    assert inside(differences) == []
    inside(migrate)


def test_both_ways_give_the_same_columns_and_indexes(tmp_path: Path) -> None:
    def schema(how: Callable[[Connection], None], name: str) -> dict[str, str]:
        engine = create_engine(f"sqlite:///{tmp_path / name}")
        with engine.begin() as connection:
            how(connection)
            rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql != ''"))
            found = {row.name: sorted(re.findall(r"[^\s,]+", row.sql)) for row in rows}
        engine.dispose()
        return {name: sql for name, sql in found.items() if name != "alembic_version"}

    assert schema(migrate, "a.db") == schema(upgrade, "b.db")


def test_a_database_with_other_tables_is_migrated_step_by_step(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
        migrate(connection)
        assert version(connection) == HEAD
    engine.dispose()


def test_the_newest_migration_is_the_one_that_is_expected() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    folder = Path(items.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


async def test_a_claim_among_ten_thousand_uses_its_index(world: World) -> None:
    queue = await world.queue("long")

    def fill(tx: Tx) -> None:
        template = {
            "entity": "ann",
            "run_entity": "ann",
            "project": "default",
            "queue_id": queue.id,
            "queue": "long",
            "display_name": "x",
            "priority": 2,
            "demand_cpus": 0,
            "demand_memory": 0,
            "demand_gpus": 0,
            "retries": 0,
            "retried": 0,
            "on_lost": "fail",
            "run_spec": {},
            "layers": {},
            "template_values": {},
            "phase": "QUEUED",
            "attempt": 1,
            "epoch": 0,
            "lease_losses": 0,
            "stop_requested": False,
            "facts": {},
            "warnings": [],
            "created_at": 0,
            "updated_at": 0,
        }
        rows = [{**template, "id": f"i{n}", "enqueued_at": n} for n in range(10_000)]
        tx.run(insert(items_table), rows)

    def plan(tx: Tx) -> str:
        values = {
            "in_queue": queue.id,
            "offered_0": "local-container",
            "cpus": 1.0,
            "memory": 1,
            "gpus": 0,
        }
        explain = "EXPLAIN QUERY PLAN" if is_sqlite(tx) else "EXPLAIN"
        compiled = (
            claimable._fitting_queries(1, without_resource=True)[1]
            .statement.params(values)
            .compile(
                tx.connection, compile_kwargs={"literal_binds": True, "render_postcompile": True}
            )
        )
        rows = tx.connection.exec_driver_sql(f"{explain} {compiled}").all()
        return "\n".join(str(row) for row in rows)

    await world.plane.database.write(fill)
    if world.plane.database.__class__.__name__ == "PostgresDatabase":
        await world.plane.database.write(lambda tx: tx.run(text("ANALYZE items")))
    shown = await world.plane.database.write(plan)
    assert "ix_items_claim" in shown
    assert "SORT" not in shown.upper().replace("NO SORT", "")
    assert "TEMP B-TREE" not in shown.upper()
    first = await world.plane.database.write(
        lambda tx: claimable.lock_first_fitting(tx, [queue.id], ["local-container"], Capacity())
    )
    assert first == "i0"


def is_sqlite(tx: Tx) -> bool:
    return tx.connection.dialect.name == "sqlite"
