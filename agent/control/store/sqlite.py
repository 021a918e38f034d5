"""SQLite: one process, one writer, separate readers.

Every write runs on one thread with one connection (`BEGIN IMMEDIATE`, so a transaction never
fails halfway for lack of the write lock), and reads on two others, each seeing the last commit
through the write-ahead log. `synchronous=FULL` puts a commit on disk before it returns. Writes
that wait for an earlier one share the next transaction (a batch): each has its own savepoint
and its own result, and none is answered before the commit. With the standard library's driver on
our own threads a transaction costs one thread switch; aiosqlite needs one per statement.
"""

import asyncio
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.pool import QueuePool

from agent.control.store.migrate import migrate
from agent.control.store.tx import T, Turn, Tx
from agent.control.store.write_batches import Waiting, Write
from agent.model.errors import ConfigError, ConflictError, ServerError

#: Milliseconds that a connection waits for a lock: only another program may hold one.
_BUSY: Final = 5_000
_READERS: Final = 2


class SqliteDatabase:
    """A database file that this process owns.

    A cancelled call does not undo its transaction: the change is committed, and only the result
    is lost.
    """

    def __init__(
        self, writer: Engine, reader: Engine, publish: Callable[[Iterable[str]], None]
    ) -> None:
        self._name = writer.url.database
        self._writing = _Writer(writer, publish)
        self._reading = _Worker(reader, _READERS, "launch-store-read")

    async def write(self, work: Callable[[Tx], T], turn: Turn = Turn.ALONE) -> T:
        """See `Database.write`."""
        with self._translated():
            result: T = await self._writing.write(work, turn)
            return result

    async def read(self, work: Callable[[Tx], T]) -> T:
        """See `Database.read`."""
        # In the caller's context, which has its `READ_BUDGET`.
        run = partial(copy_context().run, self._reading.transact, work)
        with self._translated():
            result, _ = await asyncio.get_running_loop().run_in_executor(self._reading.threads, run)
            return result

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DatabaseError, sqlite3.DatabaseError) as error:
            if isinstance(error, IntegrityError):
                raise
            seen = error.orig if isinstance(error, DatabaseError) else error
            raise ServerError(
                f"The database {self._name} cannot be used: {seen}.",
                hint="Check the disk and the file's permissions.",
            ) from error

    def close(self) -> None:
        """Wait for open transactions and close all connections."""
        self._writing.close()
        self._reading.close()


class _Worker:
    """Threads with one connection each, opened at first use and kept.

    Getting one from a pool for each transaction costs as much as a small transaction.
    """

    def __init__(self, engine: Engine, count: int, name: str) -> None:
        self.threads = ThreadPoolExecutor(count, name)
        self._engine = engine
        self._local = threading.local()
        self._opened: list[Connection] = []

    def transact(self, work: Callable[[Tx], T]) -> tuple[T, Iterable[str]]:
        """Run one transaction, on a thread of this worker; its result and topics."""
        connection = self.connection()
        with connection.begin():
            tx = Tx(connection, _clock)
            result = work(tx)
        return result, tx.topics

    def close(self) -> None:
        """Wait for open transactions and close all connections; legal twice."""
        self.threads.shutdown()
        while self._opened:
            self._opened.pop().close()
        self._engine.dispose()

    def connection(self) -> Connection:
        """That of this thread."""
        found: Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = self._engine.connect()
            self._opened.append(found)
        return found


class _Writer(_Worker):
    """The writing thread. Used by one event loop; only `_transact_all` runs on the thread."""

    def __init__(self, engine: Engine, publish: Callable[[Iterable[str]], None]) -> None:
        super().__init__(engine, 1, "launch-store-write")
        self._publish = publish
        self._waiting = Waiting()
        self._busy = False

    async def write(self, work: Callable[[Tx], Any], turn: Turn) -> Any:
        """Run a write in the next transaction; returns once that is committed."""
        loop = asyncio.get_running_loop()
        self._waiting.add(one := Write(work, loop.create_future()), turn)
        if not self._busy:
            self._start(loop)
        return await one.future

    def close(self) -> None:
        """Also run what waits still: its callers may have been cancelled."""
        while batch := self._waiting.next():
            self.threads.submit(self._transact_all, batch)
        super().close()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the next transaction on the thread, if something waits."""
        batch = self._waiting.next()
        self._busy = bool(batch)
        if batch:
            self.threads.submit(self._run, loop, batch)

    def _run(self, loop: asyncio.AbstractEventLoop, batch: Sequence[Write]) -> None:
        self._transact_all(batch)
        # A loop that was closed has nobody who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._complete, loop, batch)

    def _complete(self, loop: asyncio.AbstractEventLoop, batch: Sequence[Write]) -> None:
        self._start(loop)
        for one in batch:
            one.complete(self._publish)

    def _transact_all(self, batch: Sequence[Write]) -> None:
        """Run all in one transaction; each on its own where that cannot be committed."""
        if len(batch) > 1:
            # What is wrong with it, each finds out by itself.
            with suppress(Exception):
                self._transact_batch(batch)
                return
        for one in batch:
            try:
                self.transact(one.run)
            except BaseException as error:  # noqa: BLE001 -- it is the caller's
                one.fail(error)

    def _transact_batch(self, batch: Sequence[Write]) -> None:
        connection = self.connection()
        with connection.begin():
            # By the driver itself: SQLAlchemy's savepoints cost as much as a small write.
            execute = connection.connection.cursor().execute
            for one in batch:
                execute("SAVEPOINT one")
                try:
                    one.run(Tx(connection, _clock))
                except Exception as error:  # noqa: BLE001 -- it is the caller's
                    # Fails where SQLite has ended the whole transaction, on a full disk for one.
                    execute("ROLLBACK TO one")
                    one.fail(error)
                execute("RELEASE one")


@asynccontextmanager
async def open_sqlite(
    path: Path, publish: Callable[[Iterable[str]], None]
) -> AsyncIterator[SqliteDatabase]:
    """Open a file, making it if need be, with its schema up to date.

    Raises:
        ConfigError: its folder cannot be made.
        ConflictError: another process owns it; names its process id.
        ServerError: not a database, not readable, or the disk is full; names the file.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"The data folder {path.parent} cannot be used: {reason}.",
            hint="Name another one by `control.data_dir`.",
        ) from None
    with _owned(path):
        database = SqliteDatabase(
            _engine(path, connections=1, read_only=False),
            _engine(path, connections=_READERS, read_only=True),
            publish,
        )
        try:
            await database.write(lambda tx: migrate(tx.connection))
            yield database
        finally:
            database.close()


def _clock(connection: Connection) -> float:
    """The process's wall clock: it is the only one that writes to this store."""
    del connection
    return time.time()


def _engine(path: Path, *, connections: int, read_only: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": _BUSY / 1000},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        del record
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # By the driver itself, which makes no result object.
        connection.connection.cursor().execute("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def _owned(path: Path) -> Iterator[None]:
    """Hold the lock file beside the database; the kernel releases it when the process ends."""
    lock = path.with_name(f"{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
            raise ConflictError(
                f"The database {path} is in use by another process (pid {owner}).",
                hint="Stop that process, or give this one its own data directory. An agent that "
                "is to use the same control plane names it by --server.",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        # Before SQLite makes the file: whatever the umask, it is the owner's only.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        yield
    finally:
        os.close(descriptor)
