"""Write-ahead record of side effects: a small SQLite file with one writer thread.

Labels and the control plane know everything in here but one fact: that a start was never
sent. So a lost or broken journal costs precision, never safety; it is set aside and made
anew. What has to be on disk before the agent goes on (a start's intent, an outcome) is
waited for; all else rides along with the next such write, or follows a moment later.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import structlog

from agent.daemon.outcomes import from_json, to_json
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError
from agent.model.outcome import Outcome
from agent.model.work import Lease

Result = TypeVar("Result")

_VERSION: Final = 1
#: Seconds that a write nobody waits for waits for one that somebody does.
_LINGER: Final = 0.5
_SCHEMA: Final = """
CREATE TABLE attempt (
  item TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  name TEXT NOT NULL DEFAULT '',
  resource TEXT NOT NULL DEFAULT '',
  start_intended INTEGER NOT NULL DEFAULT 0,
  started INTEGER NOT NULL DEFAULT 0,
  log_shift INTEGER NOT NULL DEFAULT 0,
  outcome TEXT,
  over INTEGER NOT NULL DEFAULT 0,
  changed_at REAL NOT NULL,
  PRIMARY KEY (item, attempt)
) WITHOUT ROWID;
"""
_UPSERT: Final = (
    "INSERT INTO attempt (item, attempt, epoch, changed_at, {columns}) "
    "VALUES (?, ?, ?, ?, {places}) ON CONFLICT (item, attempt) DO UPDATE SET "
    "epoch = excluded.epoch, changed_at = excluded.changed_at, {updates}"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal knows about one attempt."""

    lease: Lease
    name: str
    resource: str
    #: False proves that no start was ever sent.
    start_intended: bool
    started: bool
    log_shift: int
    outcome: Outcome | None
    facts: dict[str, Any] = field(default_factory=dict)
    #: The control plane has the outcome, or the attempt is not ours any more.
    over: bool = False


@dataclass(slots=True)
class _Write:
    sql: str
    values: tuple[Any, ...]
    done: asyncio.Future[None] | None


class Journal:
    """`agent.ports.journal.AttemptJournal` on disk. Open with `Journal.open`, end with `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._waiting: list[_Write] = []
        self._committing: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        #: Used by the writer thread alone.
        self._database: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or make the file; one that cannot be read is set aside.

        Raises:
            ConfigError: its folder cannot be written.
        """
        journal = cls(path)
        try:
            journal._database = await journal._in_thread(lambda: _open(path))
        except BaseException:
            journal._thread.shutdown()
            raise
        return journal

    async def close(self) -> None:
        """Write what waits, then close; legal twice."""
        await self._flush()
        database, self._database = self._database, None
        if database is not None:
            await self._in_thread(database.close)
        self._thread.shutdown()

    def opened(self, lease: Lease, name: str, resource: str) -> None:
        """A workload is going to be created; what was noted before it never started."""
        self._note(
            lease, name=name, resource=resource, start_intended=0, started=0, outcome=None, over=0
        )
        # On disk before the permit is asked for, nearly always: it is what proves, after a
        # crash between the two, that no start was sent. It takes along what lingers.
        self._commit_now()

    async def start_intended(self, lease: Lease) -> None:
        """A start may be sent from now on."""
        await self._durable(lease, start_intended=1)

    def started(self, lease: Lease) -> None:
        """The start was answered."""
        self._note(lease, started=1)

    def log_shifted(self, lease: Lease, shift: int) -> None:
        """See `agent.pipeline.joblog`."""
        self._note(lease, log_shift=shift)
        # Nothing may follow for hours, and bytes that were shipped depend on it.
        self._commit_now()

    async def concluded(self, lease: Lease, outcome: Outcome, facts: dict[str, Any]) -> None:
        """The outcome, until it is acknowledged."""
        await self._durable(lease, outcome=to_json(outcome, facts))

    def acknowledged(self, lease: Lease) -> None:
        """The control plane has it."""
        self._note(lease, over=1)

    def dropped(self, lease: Lease) -> None:
        """Not ours any more."""
        self._note(lease, over=1)

    async def entries(self) -> list[Entry]:
        """All that is known."""
        await self._flush()
        return await self._in_thread(self._read)

    async def forget(self, older_than: float) -> None:
        """Remove attempts that are over and unchanged for so many seconds."""
        await self._submit(
            "DELETE FROM attempt WHERE over AND changed_at < ?", (_now() - older_than,)
        )

    def _note(self, lease: Lease, **columns: Any) -> None:
        self._waiting.append(_Write(*_upsert(lease, columns), None))
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_LINGER, self._commit_now)

    async def _durable(self, lease: Lease, **columns: Any) -> None:
        await self._submit(*_upsert(lease, columns))

    async def _submit(self, sql: str, values: tuple[Any, ...]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(sql, values, done))
        self._commit_now()
        await done

    def _commit_now(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all(), name="journal")

    async def _flush(self) -> None:
        """Wait until nothing waits; what could not be written has been logged."""
        if self._waiting:
            self._commit_now()
        while self._committing is not None and not self._committing.done():
            await asyncio.wait({self._committing})

    async def _commit_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            error = await self._try(batch)
            for write in batch:
                _settle(write, error)

    async def _try(self, batch: list[_Write]) -> JobError | None:
        try:
            await self._in_thread(lambda: self._commit(batch))
        except Exception as error:  # noqa: BLE001 -- whatever it is, those who wait must hear of it
            structlog.get_logger().error("the journal was not written", error=str(error))
            return _explained(error, self._path)
        return None

    def _commit(self, batch: list[_Write]) -> None:
        database = self._opened_database()
        with database:
            database.execute("BEGIN IMMEDIATE")
            for write in batch:
                database.execute(write.sql, write.values)

    def _read(self) -> list[Entry]:
        rows = self._opened_database().execute(
            "SELECT item, attempt, epoch, name, resource, start_intended, started, log_shift,"
            " outcome, over FROM attempt ORDER BY item, attempt"
        )
        return [_entry(row) for row in rows]

    def _opened_database(self) -> sqlite3.Connection:
        if self._database is None:
            message = "the journal is closed"
            raise RuntimeError(message)
        return self._database

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return _connect(path)
    except sqlite3.OperationalError as error:
        message = f"The journal {path} cannot be opened: {error}."
        raise ConfigError(message, hint="Check the rights of `state_dir`.") from error
    except sqlite3.DatabaseError as error:
        aside = _set_aside(path)
        structlog.get_logger().error(
            "the journal is damaged; made anew from labels and the control plane",
            error=str(error),
            kept_as=str(aside),
        )
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (verdict,) = database.execute("PRAGMA quick_check").fetchone()
        if verdict != "ok" or version not in {0, _VERSION}:
            raise sqlite3.DatabaseError(f"version {version}, check: {verdict}")
        if version == 0:
            database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    except BaseException:
        database.close()
        raise
    path.chmod(0o600)
    return database


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    for companion in ("-wal", "-shm"):
        Path(f"{path}{companion}").unlink(missing_ok=True)
    return aside


def _upsert(lease: Lease, columns: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
    sql = _UPSERT.format(
        columns=", ".join(columns),
        places=", ".join("?" for _ in columns),
        updates=", ".join(f"{name} = excluded.{name}" for name in columns),
    )
    return sql, (lease.item_id, lease.attempt, lease.epoch, _now(), *columns.values())


def _entry(row: tuple[Any, ...]) -> Entry:
    item, attempt, epoch, name, resource, intended, started, shift, told, over = row
    outcome, facts = from_json(told) if told else (None, {})
    return Entry(
        lease=Lease(item, attempt, epoch),
        name=name,
        resource=resource,
        start_intended=bool(intended),
        started=bool(started),
        log_shift=shift,
        outcome=outcome,
        facts=facts,
        over=bool(over),
    )


def _settle(write: _Write, error: JobError | None) -> None:
    if write.done is None or write.done.done():
        return
    if error is None:
        write.done.set_result(None)
    else:
        write.done.set_exception(error)


def _explained(error: Exception, path: Path) -> JobError:
    full = "disk is full" in str(error)
    cause = Cause.DISK_FULL if full else Cause.INTERNAL
    return JobError(cause, f"The agent's journal {path} cannot be written: {error}.")


def _now() -> float:
    """Wall-clock time: ages are compared across restarts of the machine."""
    return time.time()
