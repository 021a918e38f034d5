"""What is particular to SQLite: one owner, one writer, commits on disk, files that are private."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from agent.config.control import ControlConfig
from agent.control.services.assembly import DATABASE_FILE, open_services
from agent.control.store import migrations
from agent.control.store.migrate import HEAD
from agent.control.store.tx import Turn
from agent.model.errors import ConfigError, ConflictError, ServerError
from agent.model.phase import Phase
from tests.contract.store.world import open_world

REVISIONS = Path(str(migrations.__file__)).parent / "versions"
OTHER_DAEMON = """
import asyncio, pathlib, sys
from agent.config.control import ControlConfig
from agent.control.services.assembly import open_services

async def main():
    async with open_services(ControlConfig(data_dir=pathlib.Path(sys.argv[1]))):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


async def test_a_second_daemon_is_told_who_uses_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER_DAEMON, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        message = rf"{DATABASE_FILE} is in use by another process \(pid {other.pid}\)"
        with pytest.raises(ConflictError, match=message):
            async with open_services(ControlConfig(data_dir=tmp_path)):
                pass
        other.kill()
    async with open_services(ControlConfig(data_dir=tmp_path)):
        pass


async def test_what_was_acknowledged_survives_a_killed_process(tmp_path: Path) -> None:
    program = OTHER_DAEMON.replace(
        'print("open", flush=True)',
        "from tests.contract.store.world import World, IMAGE\n"
        "    config = ControlConfig(data_dir=pathlib.Path(sys.argv[1]))\n"
        "    async with open_services(config) as plane:\n"
        "        account = await plane.accounts.bootstrap_local('ann')\n"
        "        me = await plane.accounts.authenticate(account.api_key)\n"
        "        item = await World(plane, me, '').submit()\n"
        "        print(item.id, flush=True)",
    ).replace(
        "    async with open_services(ControlConfig(data_dir=pathlib.Path(sys.argv[1]))):\n"
        "        from",
        "    from",
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        item_id = other.stdout.readline().decode().strip()
        other.kill()
    async with open_world(ControlConfig(data_dir=tmp_path)) as world:
        assert (await world.item(item_id)).phase is Phase.QUEUED


async def test_the_file_is_the_owners_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with open_services(ControlConfig(data_dir=tmp_path / "data")):
            modes = {
                path.name: stat.S_IMODE(path.stat().st_mode)
                for path in (tmp_path / "data").iterdir()
            }
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}
    assert f"{DATABASE_FILE}-wal" in modes


async def test_the_identity_of_an_installation_stays(tmp_path: Path) -> None:
    async with open_services(ControlConfig(data_dir=tmp_path)) as plane:
        first = (plane.control_plane_id, plane.keys)
        await plane.ready()
    async with open_services(ControlConfig(data_dir=tmp_path)) as plane:
        assert (plane.control_plane_id, plane.keys) == first
        assert repr(plane.keys) not in repr(plane)


async def test_commits_are_on_disk_and_keys_are_checked(tmp_path: Path) -> None:
    async with open_services(ControlConfig(data_dir=tmp_path)) as plane:
        names = ("journal_mode", "synchronous", "foreign_keys")

        def pragmas(tx):
            return [tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

        assert await plane.database.write(pragmas) == ["wal", 2, 1]
        with pytest.raises(Exception, match="readonly database"):
            await plane.database.read(
                lambda tx: tx.connection.exec_driver_sql("DELETE FROM entities")
            )


async def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with open_services(ControlConfig(data_dir=tmp_path)) as plane:

        def work(tx):
            tx.connection.exec_driver_sql("DELETE FROM installation")
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await plane.database.write(work)
        await plane.ready()
        assert await plane.database.read(
            lambda tx: tx.connection.exec_driver_sql("SELECT count(*) FROM installation").scalar()
        )


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(ConfigError, match=f"data folder {taken} cannot be used: File exists"):
        async with open_services(ControlConfig(data_dir=taken)):
            pass


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_FILE
    path.write_bytes(b"not a database, by far not" * 100)
    with pytest.raises(ServerError, match=str(path)):
        async with open_services(ControlConfig(data_dir=tmp_path)):
            pass


async def test_a_schema_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async with open_services(ControlConfig(data_dir=tmp_path)):
        pass
    with sqlite3.connect(tmp_path / DATABASE_FILE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(ConflictError, match="schema"):
        async with open_services(ControlConfig(data_dir=tmp_path)):
            pass


def test_starting_on_a_known_schema_does_not_import_alembic(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from agent.config.control import ControlConfig\n"
        "from agent.control.services.assembly import open_services\n"
        "async def main():\n"
        "    for _ in range(2):\n"
        "        async with open_services(ControlConfig(data_dir=pathlib.Path(sys.argv[1]))):\n"
        "            pass\n"
        "asyncio.run(main())\n"
        "heavy = {'alembic', 'asyncpg', 'sqlalchemy.ext.asyncio', 'jsonschema'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert max(revision.name[:4] for revision in REVISIONS.glob("0*.py")) == HEAD


async def test_who_waits_hears_of_a_change_whose_caller_went_away(tmp_path: Path) -> None:
    async with open_services(ControlConfig(data_dir=tmp_path)) as plane:
        inside, go_on = threading.Event(), threading.Event()

        def work(tx):
            tx.notify("topic")
            inside.set()
            go_on.wait()

        with plane.notifications.subscribe(["topic"]) as subscription:
            call = asyncio.create_task(plane.database.write(work))
            await asyncio.to_thread(inside.wait)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            go_on.set()
            assert await subscription.wait(20)


async def test_a_broken_rule_of_ours_is_no_trouble_with_the_file(tmp_path: Path) -> None:
    async with open_services(ControlConfig(data_dir=tmp_path)) as plane:
        with pytest.raises(IntegrityError):
            await plane.database.write(
                lambda tx: tx.connection.exec_driver_sql("UPDATE installation SET id = NULL")
            )


def _note(number: int):
    """A write that leaves a row, and says which."""

    def work(tx):
        tx.connection.exec_driver_sql("INSERT INTO noted VALUES (?)", (number,))
        tx.notify(f"noted {number}")
        return number

    return work


def _noted(tx):
    return [row[0] for row in tx.connection.exec_driver_sql("SELECT number FROM noted ORDER BY 1")]


@asynccontextmanager
async def _writer_held(plane) -> AsyncIterator[None]:
    """Writes of the block wait for a write that ends with it."""
    go_on = threading.Event()
    inside = threading.Event()

    def hold(tx):
        inside.set()
        go_on.wait(60)

    held = asyncio.create_task(plane.database.write(hold))
    await asyncio.to_thread(inside.wait)
    try:
        yield
    finally:
        go_on.set()
    await held


async def _make_noted(plane) -> None:
    await plane.database.write(
        lambda tx: tx.connection.exec_driver_sql("CREATE TABLE noted (number INTEGER)").close()
    )


async def test_writes_that_wait_share_a_commit_and_each_has_its_own_verdict(tmp_path) -> None:
    async with open_services(ControlConfig(data_dir=tmp_path)) as plane:
        await _make_noted(plane)
        commits: list[object] = []
        event.listen(plane.database._writing._engine, "commit", commits.append)

        def failing(tx):
            _note(100)(tx)
            raise ZeroDivisionError

        with plane.notifications.subscribe(["noted 100"]) as of_failed:
            async with _writer_held(plane):
                waiting = [asyncio.create_task(plane.database.write(_note(one))) for one in (1, 2)]
                failed = asyncio.create_task(plane.database.write(failing))
                waiting.append(asyncio.create_task(plane.database.write(_note(3))))
                await asyncio.sleep(0)
            assert await asyncio.gather(*waiting) == [1, 2, 3]
            with pytest.raises(ZeroDivisionError):
                await failed
            assert not of_failed._event.is_set()
        assert await plane.database.read(_noted) == [1, 2, 3]
        assert len(commits) == 2


async def test_a_shared_transaction_that_is_lost_is_made_again_one_by_one(tmp_path) -> None:
    """As after a full disk, where SQLite ends the whole transaction by itself."""
    async with open_services(ControlConfig(data_dir=tmp_path)) as plane:
        await _make_noted(plane)
        runs: list[int] = []

        def losing(tx):
            runs.append(1)
            if len(runs) == 1:
                tx.connection.connection.cursor().execute("ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")
            return _note(2)(tx)

        async with _writer_held(plane):
            waiting = [
                asyncio.create_task(plane.database.write(work))
                for work in (_note(1), losing, _note(3))
            ]
            await asyncio.sleep(0)
        assert await asyncio.gather(*waiting) == [1, 2, 3]
        assert await plane.database.read(_noted) == [1, 2, 3]
        assert len(runs) == 2


async def test_urgent_writes_go_first(tmp_path) -> None:
    async with open_services(ControlConfig(data_dir=tmp_path)) as plane:
        order: list[str] = []
        waiting: list[asyncio.Task[None]] = []
        async with _writer_held(plane):
            for name, turn in (
                ("submit", Turn.SHARED),
                ("finish", Turn.URGENT),
                ("claim", Turn.SHARED),
            ):
                work = partial(lambda name, tx: order.append(name), name)
                waiting.append(asyncio.create_task(plane.database.write(work, turn)))
                await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        assert order == ["finish", "submit", "claim"]
