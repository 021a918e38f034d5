"""What is particular to PostgreSQL: replicas, their notifications, a server that goes away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from agent.config.control import ControlConfig
from agent.control.services.assembly import open_services
from agent.control.services.notifications import topic_queue
from agent.control.store import postgres
from agent.control.store.postgres import PostgresDatabase
from agent.control.store.tx import Turn
from agent.control.store.write_batches import OverloadedError
from agent.model.errors import ConfigError, ConflictError, InvalidInputError, UnreachableError
from agent.model.phase import Phase
from agent.model.protocol import LeaseStatus
from tests.contract.store.world import World, open_world

pytestmark = pytest.mark.postgres


@pytest.fixture
def config(make_postgres_database: Callable[[], str], tmp_path: Path) -> ControlConfig:
    return ControlConfig(data_dir=tmp_path, database_url=make_postgres_database())


@asynccontextmanager
async def replicas(config: ControlConfig) -> AsyncIterator[tuple[World, World]]:
    async with open_world(config) as one, open_services(config) as other:
        me = await other.accounts.authenticate(one.key)
        yield one, World(other, me, one.key)


class Wire:
    """A network to a server, on which what is open can be made to fall silent."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._flowing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._flowing.set()
        self._listening = await asyncio.start_server(self._carry, "127.0.0.1")
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listening.wait_closed()

    def freeze(self) -> None:
        """Connections that are open now carry nothing any more; later ones do."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._server)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(_pump(source, target, self._flowing))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _pump(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, flowing: asyncio.Event
) -> None:
    try:
        while data := await source.read(65536):
            await flowing.wait()
            target.write(data)
            await target.drain()
    except OSError:
        pass  # the other end is gone
    finally:
        target.close()


@asynccontextmanager
async def wire_to(config: ControlConfig) -> AsyncIterator[tuple[Wire, ControlConfig]]:
    """A network to the database, and the configuration of a plane behind it."""
    assert config.database_url is not None
    server = urlsplit(config.database_url.get_secret_value())
    async with Wire(str(server.hostname), server.port or 5432) as wire:
        place = f"{server.username}:{server.password}@127.0.0.1:{wire.port}"
        url = SecretStr(server._replace(netloc=place).geturl())
        yield wire, config.model_copy(update={"database_url": url})


async def _heard_of(listener: World, speaker: World) -> None:
    """Wait until a notice of one replica reaches the other."""
    with listener.plane.notifications.subscribe(["test"]) as subscription:
        async with asyncio.timeout(20):
            while not await subscription.wait(0.05):
                await speaker.plane.database.write(lambda tx: tx.notify("test"))


async def test_a_submission_to_one_replica_wakes_a_claim_at_another(config) -> None:
    async with replicas(config) as (one, other):
        await _heard_of(other, one)
        agent = await other.agent()
        waiting = asyncio.create_task(agent.claim(wait=25.0))
        item = await one.submit()
        async with asyncio.timeout(4):
            (claim,) = await waiting
        assert claim.lease.item_id == item.id


async def test_a_stop_asked_of_one_replica_is_heard_by_an_agent_at_another(config) -> None:
    async with replicas(config) as (one, other):
        await _heard_of(other, one)
        agent = await other.agent()
        item = await one.submit()
        claim = await agent.claim_one()
        waiting = asyncio.create_task(agent.commands(await agent.commands(), wait=25.0))
        await other.somebody_waits()
        await one.plane.items.stop(one.me, item.id)
        async with asyncio.timeout(10):
            await waiting
        assert (await agent.beat(claim)).statuses == {item.id: LeaseStatus.STOP}


async def test_replicas_that_start_at_once_agree(config) -> None:
    async def identity() -> str:
        async with open_services(config) as plane:
            return plane.control_plane_id

    assert len(set(await asyncio.gather(*(identity() for _ in range(4))))) == 1


async def test_claims_at_two_replicas_get_different_items(config) -> None:
    async with replicas(config) as (one, other):
        first, second = await one.agent("first"), await other.agent("second")
        items = {(await one.submit()).id for _ in range(20)}
        batches = await asyncio.gather(
            *(agent.claim(most=2) for agent in (first, second) for _ in range(5))
        )
        taken = [claim.lease.item_id for batch in batches for claim in batch]
        assert len(taken) == len(set(taken))
        assert set(taken) <= items


async def test_a_repeated_claim_at_two_replicas_at_once_takes_once(config) -> None:
    async with replicas(config) as (one, other):
        agent = await one.agent()
        for _ in range(3):
            await one.submit()
        twin = type(agent)(other, agent.welcome, agent.session)
        pairs = await asyncio.gather(agent.claim("same"), twin.claim("same"))
        assert pairs[0] == pairs[1]


async def test_the_listener_comes_back_after_its_connection_was_cut(config) -> None:
    async with replicas(config) as (one, other):
        await _heard_of(other, one)
        await _end_other_sessions(config)
        await _heard_of(other, one)


async def test_the_listener_comes_back_after_a_connection_that_dies_at_once(
    config, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, died = asyncpg.connect, asyncio.Event()

    async def dying(*dsn: str, **how: object):
        connection = await connect(*dsn, **how)
        listener = asyncio.current_task().get_name() == "store-listener"
        if listener and not died.is_set():
            connection.terminate()
            died.set()
        return connection

    async with replicas(config) as (one, other):
        await _heard_of(other, one)
        monkeypatch.setattr(asyncpg, "connect", dying)
        await _end_other_sessions(config)
        await died.wait()
        await _heard_of(other, one)


async def test_the_listener_comes_back_from_a_network_that_lets_nothing_through(
    config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_PROBE_AFTER", 0.1)
    monkeypatch.setattr(postgres, "_PROBE_TIMEOUT", 0.2)
    async with (
        wire_to(config) as (wire, distant),
        open_world(config) as one,
        open_services(distant) as plane,
    ):
        other = World(plane, one.me, one.key)
        await _heard_of(other, one)
        wire.freeze()
        await _heard_of(other, one)


async def test_a_connection_that_falls_silent_is_given_up(
    config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests and the end of the process wait for it no longer than one deadline."""
    monkeypatch.setattr(postgres, "_STATEMENT", 0.2)
    async with wire_to(config) as (wire, distant), open_services(distant) as plane:
        await plane.database.read(lambda tx: tx.now)
        wire.freeze()
        async with asyncio.timeout(60):
            with pytest.raises(UnreachableError):
                await plane.database.read(lambda tx: tx.now)
            assert await plane.database.read(lambda tx: tx.now)


async def _starting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a server says to everybody until its recovery is over."""
    await reader.readexactly(8)
    writer.write(b"N")  # no encryption
    size = int.from_bytes(await reader.readexactly(4))
    await reader.readexactly(size - 4)
    said = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
    writer.write(b"E" + (len(said) + 4).to_bytes(4) + said)
    await writer.drain()
    writer.close()


async def test_a_server_that_is_starting_is_unreachable(tmp_path: Path) -> None:
    async with await asyncio.start_server(_starting, "127.0.0.1", 0) as server:
        url = f"postgresql://x:y@127.0.0.1:{server.sockets[0].getsockname()[1]}/none"
        with pytest.raises(UnreachableError):
            async with open_services(ControlConfig(data_dir=tmp_path, database_url=url)):
                pass


async def test_calls_after_a_cut_connection_succeed(config) -> None:
    async with open_world(config) as world:
        await world.submit()
        await _end_other_sessions(config)
        await world.submit()
        await world.plane.ready()


async def test_a_server_that_is_away_is_unreachable(tmp_path: Path) -> None:
    gone = ControlConfig(data_dir=tmp_path, database_url="postgresql://x:y@127.0.0.1:9/none")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9 does not answer"):
        async with open_services(gone):
            pass


async def test_a_server_that_refuses_us_is_named_with_its_words(config, tmp_path: Path) -> None:
    assert config.database_url is not None
    address = make_url(config.database_url.get_secret_value())
    for change, words in (
        ({"database": "no_such_database"}, "no_such_database"),
        ({"username": "no_such_user", "password": "hunter2"}, "no_such_user"),
    ):
        url = address.set(**change).render_as_string(hide_password=False)
        with pytest.raises(UnreachableError, match=words) as caught:
            async with open_services(ControlConfig(data_dir=tmp_path, database_url=url)):
                pass
        assert "refuses the connection" in caught.value.message
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["not an address", "mysql://user:pw@localhost/launch"])
async def test_an_address_that_cannot_be_read_is_named(tmp_path: Path, url: str) -> None:
    wrong = ControlConfig(data_dir=tmp_path, database_url=url)
    with pytest.raises(ConfigError, match="database_url"):
        async with open_services(wrong):
            pass


async def test_a_deadlock_is_tried_again(config) -> None:
    async with open_world(config) as world:
        for name in ("one", "two"):
            await world.queue(name)
        tries: list[str] = []
        database = world.plane.database
        assert isinstance(database, PostgresDatabase)

        def lock(first: str, second: str):
            def work(tx):
                tries.append(first)
                for name in (first, second):
                    tx.run(text("SELECT 1 FROM queues WHERE name = :n FOR UPDATE"), {"n": name})
                    tx.run(text("SELECT pg_sleep(0.2)"))
                return first

            return work

        done = await asyncio.gather(
            database.write(lock("one", "two")), database.write(lock("two", "one"))
        )
        assert done == ["one", "two"]
        assert len(tries) == 3


async def test_many_topics_travel_in_several_notifications(config) -> None:
    async with replicas(config) as (one, other):
        await _heard_of(other, one)
        topics = [topic_queue(f"{'x' * 40}{number}") for number in range(400)]
        subscribe = other.plane.notifications.subscribe
        with subscribe(topics[:1]) as first, subscribe(topics[-1:]) as last:
            await one.plane.database.write(lambda tx: tx.notify(*topics))
            assert await first.wait(10)
            assert await last.wait(10)


async def test_mistakes_of_ours_are_not_taken_for_an_absent_server(config) -> None:
    async with open_world(config) as world:
        with pytest.raises(Exception, match="nonsense"):
            await world.plane.database.write(lambda tx: tx.run(text("SELECT nonsense")))
        with pytest.raises(Exception, match="nonsense"):
            await world.plane.database.read(lambda tx: tx.run(text("SELECT nonsense")))
        with pytest.raises(Exception, match="read-only"):
            await world.plane.database.read(lambda tx: tx.run(text("DELETE FROM members")))


async def _end_other_sessions(config: ControlConfig) -> None:
    assert config.database_url is not None
    connection = await asyncpg.connect(config.database_url.get_secret_value())
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()


async def test_a_claim_that_waits_at_two_replicas_is_answered_at_both(
    config,
) -> None:
    async with replicas(config) as (one, other):
        await _heard_of(other, one)
        agent = await one.agent()
        twin = type(agent)(other, agent.welcome, agent.session)
        waiting = [asyncio.create_task(each.claim("same", wait=25.0)) for each in (agent, twin)]
        await one.somebody_waits()
        await other.somebody_waits()
        await one.submit()
        async with asyncio.timeout(4):
            first, second = await asyncio.gather(*waiting)
        assert first == second


async def test_writes_of_agents_that_wait_share_a_transaction(config) -> None:
    async with open_world(config) as world:
        agent = await world.agent()
        for _ in range(4):
            await world.submit()
        claims = await agent.claim(most=4)
        ids = set()

        def seen(tx):
            ids.add(tx.run(text("SELECT pg_current_xact_id()")).scalar_one())

        database = world.plane.database
        await asyncio.gather(
            *(agent.start(claim) for claim in claims),
            *(database.write(seen, Turn.URGENT) for _ in range(4)),
        )
        assert len(ids) < 4
        for claim in claims:
            assert (await world.item(claim.lease.item_id)).phase is Phase.STARTED
            await world.history(claim.lease.item_id)


async def test_a_write_that_fails_changes_nothing_of_those_it_shares_with(config) -> None:
    async with open_world(config) as world:
        agent = await world.agent()
        for _ in range(2):
            await world.submit()
        one, other = await agent.claim(most=2)

        def failing(tx):
            tx.run(text("UPDATE items SET activity = 'wrong'"))
            raise ConflictError("no")

        write = world.plane.database.write
        results = await asyncio.gather(
            agent.permit(one),
            write(failing, Turn.URGENT),
            write(lambda tx: tx.run(text("SELECT nonsense")), Turn.URGENT),
            agent.permit(other),
            return_exceptions=True,
        )
        assert [results[0], results[3]] == [LeaseStatus.HELD] * 2
        assert isinstance(results[1], ConflictError)
        assert "nonsense" in str(results[2])
        for claim in (one, other):
            item = await world.item(claim.lease.item_id)
            assert (item.phase, item.activity) == (Phase.PERMITTED, None)
            assert (await world.history(item)).count(Phase.PERMITTED) == 1


#: Rows of `noted` end the session that commits them.
_DIES_AT_COMMIT = (
    "CREATE TABLE noted (number integer)",
    """CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'""",
    """CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON noted
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()""",
)


async def test_a_shared_commit_whose_answer_was_lost_is_not_repeated(config) -> None:
    """It may have arrived: a submission that was made again would be there twice."""
    async with open_world(config) as world:
        for statement in _DIES_AT_COMMIT:
            await world.plane.database.write(lambda tx, made=statement: tx.run(text(made)).close())
        runs: list[int] = []

        def note(tx):
            runs.append(1)
            tx.run(text("INSERT INTO noted VALUES (1)"))

        write = world.plane.database.write
        results = await asyncio.gather(
            *(write(note, Turn.SHARED) for _ in range(3)), return_exceptions=True
        )
        assert [type(one) for one in results] == [UnreachableError] * 3
        assert len(runs) == 3
        await world.submit()


@asynccontextmanager
async def _locked(config: ControlConfig, statement: str) -> AsyncIterator[None]:
    """Another process holds the rows that a statement locks."""
    assert config.database_url is not None
    connection = await asyncpg.connect(config.database_url.get_secret_value())
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
        yield
    finally:
        await transaction.rollback()
        await connection.close()


async def test_writes_that_wait_for_a_lock_hold_up_no_renewal(
    config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of the same batch nor later ones, alone or with further blocked ones."""
    monkeypatch.setitem(postgres._SETTINGS, "lock_timeout", "120s")
    async with open_world(config) as world:
        holders = [await world.agent(f"holder-{number}") for number in range(8)]
        for _ in holders:
            await world.submit()
        claims = [await holder.claim_one() for holder in holders]
        others = [await world.agent(f"other-{number}") for number in range(3)]
        async with _locked(config, "SELECT 1 FROM items FOR UPDATE"), asyncio.timeout(60):
            first = asyncio.create_task(holders[0].beat(claims[0]))
            await others[0].beat()
            blocked = [
                asyncio.create_task(holder.beat(claim))
                for holder, claim in zip(holders[1:], claims[1:], strict=True)
            ]
            await asyncio.gather(*(other.beat() for other in others))
            await others[0].beat()
            assert not any(one.done() for one in (first, *blocked))
        for answer, claim in zip(await asyncio.gather(first, *blocked), claims, strict=True):
            assert answer.statuses == {claim.lease.item_id: LeaseStatus.HELD}


async def test_a_lock_that_is_held_for_long_is_told_as_overload(
    config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._SETTINGS, "lock_timeout", "50ms")
    async with open_world(config) as world:
        agent = await world.agent()
        item = await world.submit()
        claim = await agent.claim_one()
        async with _locked(config, "SELECT 1 FROM items FOR UPDATE"):
            with pytest.raises(OverloadedError):
                await agent.beat(claim)
            with pytest.raises(OverloadedError):
                await world.plane.items.stop(world.me, item.id)
        assert (await agent.beat(claim)).statuses == {item.id: LeaseStatus.HELD}


async def test_a_process_that_was_frozen_in_a_transaction_loses_its_locks(
    config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._SETTINGS, "idle_in_transaction_session_timeout", "100ms")
    monkeypatch.setitem(postgres._SETTINGS, "lock_timeout", "120s")
    async with replicas(config) as (frozen, other):
        agent = await other.agent()
        with suppress(DBAPIError):  # its connection was cut meanwhile
            async with frozen.plane.database._engine.begin() as connection:
                await connection.execute(text("SELECT 1 FROM agents FOR UPDATE"))
                async with asyncio.timeout(60):
                    await agent.beat()


async def test_one_that_has_to_be_written_again_makes_no_others_be_written_alone(
    config, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[object] = []
    write_alone = PostgresDatabase._write_alone

    async def counted(self, engine, work):
        alone.append(work)
        return await write_alone(self, engine, work)

    def failing(tx):
        tx.run(text("UPDATE items SET activity = 'wrong'"))
        raise ConflictError("no")

    async with open_world(config) as world:
        await world.submit()
        agents = [await world.agent(f"agent-{number}") for number in range(5)]
        monkeypatch.setattr(PostgresDatabase, "_write_alone", counted)
        results = await asyncio.gather(
            *(agent.beat() for agent in agents),
            world.plane.database.write(failing, Turn.SHARED),
            return_exceptions=True,
        )
        assert isinstance(results.pop(), ConflictError)
        assert not any(isinstance(one, Exception) for one in results)
        assert not alone


async def test_a_submission_that_is_refused_or_needs_checks_leaves_its_batch_whole(
    config, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[int] = []
    write_each = postgres._write_each

    def counted(connection, batch):
        again.append(len(batch))
        return write_each(connection, batch)

    monkeypatch.setattr(postgres, "_write_each", counted)
    template = {"local-container": {"env": ["X={{x}}"]}}
    variables = {"x": {"schema": {"type": "integer", "minimum": 1, "maximum": 5}}}
    async with open_world(config) as world:
        await world.queue("typed", config={"resource_args": template}, template_variables=variables)
        await world.submit()
        agents = [await world.agent(f"agent-{number}") for number in range(5)]
        results = await asyncio.gather(
            *(agent.beat() for agent in agents),
            world.submit(queue="typed", variables={"x": 2}),
            world.submit(queue="typed", variables={"x": 3}, key="three"),
            world.submit({"project": "a/b:c"}, key="refused"),
            return_exceptions=True,
        )
        assert isinstance(results.pop(), InvalidInputError)
        assert not any(isinstance(one, Exception) for one in results)
        assert not again
        # The refusal has not used up its key.
        assert (await world.submit(key="refused")).id
        assert (await world.submit(queue="typed", variables={"x": 3}, key="three")) == results[-1]
