"""PostgreSQL: several replicas of the control plane over one database.

Notifications travel with the commit that caused them (`NOTIFY`), and one connection listens for
those of other replicas. A transaction that the server aborts for a deadlock is run again. Short
writes that wait at the same time share a transaction, since a small one consists of round trips.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
from sqlalchemy import URL, Connection, NullPool, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agent.control.store.migrate import migrate
from agent.control.store.tx import Postponed, T, Turn, Tx
from agent.control.store.write_batches import Waiting, Write
from agent.model.errors import ConfigError, LaunchError, UnreachableError

_PORT: Final = 5432
_CHECK: Final = "Check `control.database_url` and the server."
_CHANNEL: Final = "launch"
#: A notification carries less than 8,000 bytes.
_PAYLOAD: Final = 7_500
_DEADLOCK: Final = frozenset({"40P01", "40001"})
_ATTEMPTS: Final = 4
#: Any number, the same in all replicas: only one of them migrates.
_MIGRATION_LOCK: Final = 4_615_043
#: SQLSTATE classes of a server that cannot serve now: connection failure, insufficient
#: resources, operator intervention, system error.
_UNABLE: Final = ("08", "53", "57", "58")
#: SQLSTATE classes of a refused user or an unknown database.
_REFUSALS: Final = ("28", "3D")
#: Seconds between tries to listen again.
_RECONNECT: Final = 1.0
#: Seconds without a notification after which the listening connection is probed, and seconds
#: for the probe's answer: a connection that was cut silently would be waited for without end.
_PROBE_AFTER: Final = 15.0
_PROBE_TIMEOUT: Final = 10.0
#: Seconds for a connection, and for a statement: all of ours are short. Migrations have no limit.
_CONNECT: Final = 10.0
_STATEMENT: Final = 30.0


#: The time, and the seconds that a shared transaction waits for a lock before its writes are made
#: one by one: the holder may wait for one of its own locks.
_BATCH_CLOCK: Final = text(
    "SELECT extract(epoch FROM now())::float8, set_config('lock_timeout', '200ms', true)"
)

#: Errors of a transaction that are not raised by its work.
_FAILURES: Final = (DBAPIError, OSError, PoolTimeoutError)


class PostgresDatabase:
    """Connections to one database: a pool, and a few that only shared writes use.

    Requests that read for long may take the whole pool; renewals must not wait for them.
    """

    def __init__(
        self, engine: AsyncEngine, shared: AsyncEngine, publish: Callable[[Iterable[str]], None]
    ) -> None:
        self._engine = engine
        self._shared = shared
        self._publish = publish
        self._waiting = Waiting()
        self._batching: asyncio.Task[None] | None = None

    async def write(self, work: Callable[[Tx], T], turn: Turn = Turn.ALONE) -> T:
        """See `Database.write`."""
        if turn is Turn.ALONE:
            result, topics = await self._write_alone(self._engine, work)
            self._publish(topics)
            return result
        one = Write(work, asyncio.get_running_loop().create_future())
        self._waiting.add(one, turn)
        if self._batching is None or self._batching.done():
            self._batching = asyncio.create_task(self._write_batches(), name="store-batches")
        shared: T = await one.future
        return shared

    async def read(self, work: Callable[[Tx], T]) -> T:
        """See `Database.read`."""
        try:
            result, _ = await self._transact(self._engine, _body(work), read_only=True)
        except _FAILURES as error:
            raise _translated(error) from error
        return result

    async def close(self) -> None:
        """Wait for writes under way, and close all connections."""
        if self._batching is not None:
            await self._batching
        await self._shared.dispose()
        await self._engine.dispose()

    async def _write_batches(self) -> None:
        """Write what waits, until nothing does."""
        while batch := self._waiting.next():
            if not await self._write_batch(batch):
                await asyncio.gather(*map(self._write_of_batch, batch))
            for one in batch:
                one.complete(self._publish)

    async def _write_batch(self, batch: Sequence[Write]) -> bool:
        """Write all in one transaction; false where nothing was changed, or there is only one.

        There are no savepoints, which are round trips of their own: one that fails after it has
        changed something, or has to wait for a lock, makes all be written one by one. A commit
        whose answer was lost fails them all, as it fails one: it may have arrived.
        """
        if len(batch) == 1:
            return False
        committing = False

        def body(connection: Connection) -> None:
            nonlocal committing
            committing = False
            now = float(connection.execute(_BATCH_CLOCK).scalar_one())
            topics: dict[str, None] = {}
            postponed = Postponed()
            for one in batch:
                tx = Tx(connection, lambda _: now, postponed)
                try:
                    one.run(tx)
                except LaunchError as error:
                    if tx.wrote:
                        raise
                    one.fail(error)
                else:
                    topics |= tx.topics
            postponed.flush(connection)
            _notify(connection, tuple(topics))
            committing = True

        try:
            await self._transact(self._shared, body)
        except Exception as error:  # noqa: BLE001 -- each finds out by itself what is wrong
            if not committing or _is_refused(error):
                return False
            for one in batch:
                one.fail(_translated(error))
        return True

    async def _write_of_batch(self, one: Write) -> None:
        try:
            await self._write_alone(self._shared, one.run)
        except Exception as error:  # noqa: BLE001 -- it is the caller's
            one.fail(error)

    async def _write_alone(
        self, engine: AsyncEngine, work: Callable[[Tx], T]
    ) -> tuple[T, Iterable[str]]:
        for left in reversed(range(_ATTEMPTS)):
            try:
                return await self._transact(engine, _body(work))
            except _FAILURES as error:
                if not left or _sqlstate(error) not in _DEADLOCK:
                    raise _translated(error) from error
        raise AssertionError  # pragma: no cover -- the last try returns or raises

    async def _transact(
        self, engine: AsyncEngine, body: Callable[[Connection], T], *, read_only: bool = False
    ) -> T:
        """One transaction; again on a new connection where the first was found to be cut.

        That takes the place of a probe before each one. After the commit was sent nothing is
        repeated: it may have arrived.
        """
        for last in (False, True):
            committing = False
            try:
                async with engine.connect() as connection:
                    if read_only:
                        await connection.execution_options(
                            isolation_level="REPEATABLE READ", postgresql_readonly=True
                        )
                    async with connection.begin():
                        result = await connection.run_sync(body)
                        committing = True
                    return result
            except DBAPIError as error:
                if last or committing or not error.connection_invalidated:
                    raise
        raise AssertionError  # pragma: no cover -- the last try returns or raises


def _body(work: Callable[[Tx], T]) -> Callable[[Connection], tuple[T, Iterable[str]]]:
    def body(connection: Connection) -> tuple[T, Iterable[str]]:
        tx = Tx(connection, _clock)
        result = work(tx)
        _notify(connection, tuple(tx.topics))
        return result, tx.topics

    return body


@asynccontextmanager
async def open_postgres(
    url: str, publish: Callable[[Iterable[str]], None]
) -> AsyncIterator[PostgresDatabase]:
    """Connect, bring the schema up to date, listen for other replicas.

    Raises:
        ConfigError: the address cannot be read.
        UnreachableError: nothing answers there.
    """
    try:
        address = _address(url)
    except ArgumentError:
        raise ConfigError(
            "`control.database_url` is not an address of a PostgreSQL database.",
            hint="Write postgresql://user:password@host:5432/name; leave it out for SQLite.",
        ) from None
    await _connect_and_migrate(address)
    arguments = {"timeout": _CONNECT, "command_timeout": _STATEMENT}
    # None beyond the pool: those would be opened and closed for a request each.
    engine = create_async_engine(address, pool_size=12, max_overflow=0, connect_args=arguments)
    shared = create_async_engine(address, pool_size=2, max_overflow=0, connect_args=arguments)
    database = PostgresDatabase(engine, shared, publish)
    try:
        dsn = address.set(drivername="postgresql").render_as_string(hide_password=False)
        listener = asyncio.create_task(_listen(dsn, publish), name="store-listener")
        try:
            yield database
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener
    finally:
        await database.close()


def _address(url: str) -> URL:
    address = make_url(url)
    if address.get_backend_name() not in {"postgresql", "postgres"}:
        raise ArgumentError(address.drivername)
    return address.set(drivername="postgresql+asyncpg")


def _migrate(tx: Tx) -> None:
    tx.run(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    migrate(tx.connection)


def _clock(connection: Connection) -> float:
    """The server's clock: the same for all replicas."""
    now = connection.execute(text("SELECT extract(epoch FROM now())::float8")).scalar_one()
    return float(now)


def _notify(connection: Connection, topics: tuple[str, ...]) -> None:
    chunk: list[str] = []
    for topic in topics:
        if chunk and len(json.dumps([*chunk, topic])) > _PAYLOAD:
            connection.execute(select(func.pg_notify(_CHANNEL, json.dumps(chunk))))
            chunk = []
        chunk.append(topic)
    if chunk:
        connection.execute(select(func.pg_notify(_CHANNEL, json.dumps(chunk))))


async def _connect_and_migrate(address: URL) -> None:
    """The first transaction: its errors name the server and its answer."""
    engine = create_async_engine(address, poolclass=NullPool, connect_args={"timeout": _CONNECT})
    try:
        await PostgresDatabase(engine, engine, lambda _: None).write(_migrate)
    except (UnreachableError, DBAPIError) as error:
        seen = error.__cause__ if isinstance(error, UnreachableError) else error
        host = f"{address.host}:{address.port or _PORT}"
        if _sqlstate(seen)[:2] in {*_UNABLE, *_REFUSALS}:
            reason = str(getattr(seen, "orig", seen)).rstrip(".")
            message = f"The database server {host} refuses the connection: {reason}."
        elif isinstance(error, UnreachableError):
            reason = f" ({seen.strerror or seen})" if isinstance(seen, OSError) else ""
            message = f"The database server {host} does not answer{reason}."
        else:
            raise
        raise UnreachableError(message, hint=_CHECK) from seen


def _sqlstate(error: BaseException | None) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def _is_refused(error: Exception) -> bool:
    """Whether the server said no to the commit; when it is ended it may have committed before."""
    state = _sqlstate(error)
    return bool(state) and state[:2] not in _UNABLE


def _translated(error: Exception) -> Exception:
    """`UnreachableError` where the server is unavailable; else the error itself, a bug."""
    away = isinstance(error, OSError | PoolTimeoutError | InterfaceError | OperationalError)
    unable = getattr(error, "connection_invalidated", False) or _sqlstate(error)[:2] in _UNABLE
    if not away and not unable:
        return error
    return UnreachableError("The database server does not answer.", hint=_CHECK)


async def _listen(dsn: str, publish: Callable[[Iterable[str]], None]) -> None:
    """Forward notifications of other replicas; reconnects whenever the connection is lost.

    Subscribers poll slowly, which makes up for notifications missed meanwhile.
    """
    import asyncpg  # type: ignore[import-untyped]

    while True:
        try:
            await _forward(await asyncpg.connect(dsn, timeout=_CONNECT), publish)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            structlog.get_logger().warning(
                "lost the connection for notifications", error=str(error)
            )
            await asyncio.sleep(_RECONNECT)


async def _forward(connection: Any, publish: Callable[[Iterable[str]], None]) -> None:
    closed = asyncio.Event()
    connection.add_termination_listener(lambda _: closed.set())
    try:
        await connection.add_listener(
            _CHANNEL, lambda _c, _pid, _channel, payload: publish(json.loads(str(payload)))
        )
        while not closed.is_set():
            try:
                async with asyncio.timeout(_PROBE_AFTER):
                    await closed.wait()
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=_PROBE_TIMEOUT)
    finally:
        # Not `close`: the server may be gone, and no statement is open.
        connection.terminate()
