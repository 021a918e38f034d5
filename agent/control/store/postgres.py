"""PostgreSQL: several replicas of the control plane over one database.

Notifications travel with the commit that caused them (`NOTIFY`), and one connection listens for
those of other replicas. A transaction that the server aborts for a deadlock is run again. Short
writes that wait at the same time share a transaction, since a small one consists of round trips.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
from sqlalchemy import URL, Connection, NullPool, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agent.control.store.migrate import migrate
from agent.control.store.tx import Postponed, T, Turn, Tx
from agent.control.store.write_batches import OverloadedError, Waiting, Write
from agent.model.errors import ConfigError, UnreachableError

_PORT: Final = 5432
_CHECK: Final = "Check `control.database_url` and the server."
_CHANNEL: Final = "launch"
#: A notification carries less than 8,000 bytes.
_PAYLOAD: Final = 7_500
_DEADLOCK: Final = frozenset({"40P01", "40001"})
#: SQLSTATE of a statement that has waited for a lock as long as it may.
_LOCKED: Final = "55P03"
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
#: Of every session. A write waits so long for a lock. A process that was frozen in the middle of
#: a transaction loses it, and so the locks that it holds.
_SETTINGS: Final = {"lock_timeout": "5s", "idle_in_transaction_session_timeout": "10s"}
#: Writes at a time that were taken out of their batch.
_APART: Final = 3

#: The time, and how long each statement of a batch waits for a lock: the holder may wait for one
#: that the batch has.
_BATCH_CLOCK: Final = text(
    "SELECT extract(epoch FROM now())::float8, set_config('lock_timeout', :wait, true)"
)
_WAIT: Final = "200ms"
#: With savepoints, where many of the writes may have to wait, one after the other.
_SHORT_WAIT: Final = "20ms"

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
        self._apart: set[asyncio.Task[None]] = set()
        self._turns_apart = asyncio.Semaphore(_APART)

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
        await asyncio.gather(*self._apart)
        await self._shared.dispose()
        await self._engine.dispose()

    async def _write_batches(self) -> None:
        """Write what waits, until nothing does; one that waits for a lock holds up no other."""
        while batch := self._waiting.next():
            apart = await self._write_batch(batch, _write_together)
            if apart is None and len(batch) > 1:
                apart = await self._write_batch(batch, _write_each)
            for one in batch:
                if apart is None or one in apart:
                    task = asyncio.create_task(self._write_apart(one), name="store-write")
                    self._apart.add(task)
                    task.add_done_callback(self._apart.discard)
                else:
                    one.complete(self._publish)

    async def _write_batch(
        self,
        batch: Sequence[Write],
        write_all: Callable[[Connection, Sequence[Write]], Collection[Write]],
    ) -> Collection[Write] | None:
        """Write all in one transaction, except those that are returned; `None`: none was written.

        A commit whose answer was lost fails them all, as it fails one: it may have arrived.
        """
        apart: Collection[Write] = ()
        committing = False

        def body(connection: Connection) -> None:
            nonlocal apart, committing
            committing = False
            apart = write_all(connection, batch)
            committing = True

        try:
            await self._transact(self._shared, body)
        except Exception as error:  # noqa: BLE001 -- each finds out by itself what is wrong
            if not committing or _is_refused(error):
                return None
            for one in batch:
                one.fail(_translated(error))
        return apart

    async def _write_apart(self, one: Write) -> None:
        async with self._turns_apart:
            try:
                await self._write_alone(self._shared, one.run)
            except Exception as error:  # noqa: BLE001 -- it is the caller's
                one.fail(error)
        one.complete(self._publish)

    async def _write_alone(
        self, engine: AsyncEngine, work: Callable[[Tx], T]
    ) -> tuple[T, Iterable[str]]:
        left = _ATTEMPTS
        while True:
            left -= 1
            try:
                return await self._transact(engine, _body(work))
            except _FAILURES as error:
                if not left or _sqlstate(error) not in _DEADLOCK:
                    raise _translated(error) from error

    async def _transact(
        self, engine: AsyncEngine, body: Callable[[Connection], T], *, read_only: bool = False
    ) -> T:
        """One transaction; again on a new connection where the first was found to be cut.

        That takes the place of a probe before each one. After the commit was sent nothing is
        repeated: it may have arrived.
        """
        again = False
        while True:
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
                if again or committing or not error.connection_invalidated:
                    raise
                again = True


def _write_together(connection: Connection, batch: Sequence[Write]) -> Collection[Write]:
    """Write all; raises where one fails after it has changed something, or waits for a lock.

    There are no savepoints, which are round trips of their own.
    """
    now = float(connection.execute(_BATCH_CLOCK, {"wait": _WAIT}).scalar_one())
    topics: dict[str, None] = {}
    postponed = Postponed()
    for one in batch:
        tx = Tx(connection, lambda _: now, postponed)
        try:
            one.run(tx)
        except _FAILURES:
            raise
        except Exception as error:
            if tx.wrote:
                raise
            one.fail(error)
        else:
            topics |= tx.topics
    postponed.flush(connection)
    _notify(connection, tuple(topics))
    return ()


def _write_each(connection: Connection, batch: Sequence[Write]) -> Collection[Write]:
    """Write each with a savepoint; returns those that have to wait for a lock."""
    now = float(connection.execute(_BATCH_CLOCK, {"wait": _SHORT_WAIT}).scalar_one())
    topics: dict[str, None] = {}
    locked: list[Write] = []
    for one in batch:
        tx = Tx(connection, lambda _: now)
        try:
            with connection.begin_nested():
                one.run(tx)
        except Exception as error:
            if _sqlstate(error) in {_LOCKED, *_DEADLOCK}:
                locked.append(one)
                continue
            if isinstance(error, _FAILURES) and _translated(error) is not error:
                raise
            one.fail(error)
        else:
            topics |= tx.topics
    _notify(connection, tuple(topics))
    return locked


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
    arguments = {
        "timeout": _CONNECT,
        "command_timeout": _STATEMENT,
        "server_settings": _SETTINGS,
    }
    # None beyond the pool: those would be opened and closed for a request each.
    engine = create_async_engine(address, pool_size=12, max_overflow=0, connect_args=arguments)
    # One for the batch, whatever the others wait for.
    shared = create_async_engine(
        address, pool_size=1 + _APART, max_overflow=0, connect_args=arguments
    )
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
    """`UnreachableError` where it cannot serve now, `OverloadedError` where others held a lock.

    Else the error itself, a bug.
    """
    if _sqlstate(error) == _LOCKED:
        return OverloadedError()
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
