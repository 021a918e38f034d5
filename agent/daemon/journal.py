"""Write-ahead journal of side effects: a small SQLite file with one writer thread.

Only one fact in it is recorded nowhere else (workload labels, control plane): that no start was
sent. So a lost or damaged journal makes more attempts end as lost, and never starts one twice;
a damaged file is set aside and a new one is created. Writes that must be durable before the
agent goes on (that a start is sent, an outcome) are awaited; the others are committed with the
next such write, or shortly after.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import structlog

from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError
from agent.model.phase import (
    Errored,
    Failed,
    Lost,
    Outcome,
    Preempted,
    Refused,
    Stopped,
    Succeeded,
)
from agent.model.work import Lease

Result = TypeVar("Result")

_VERSION: Final = 4
#: Seconds after which a write that is not awaited is committed without one that is.
_COMMIT_DELAY: Final = 0.5
_SCHEMA: Final = """
CREATE TABLE attempt (
  item TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  start_sent INTEGER NOT NULL DEFAULT 0,
  log_resume TEXT NOT NULL DEFAULT '',
  outcome TEXT,
  over INTEGER NOT NULL DEFAULT 0,
  changed_at REAL NOT NULL,
  PRIMARY KEY (item, attempt)
) WITHOUT ROWID;
"""
_UPSERT: Final = (
    "INSERT INTO attempt ({columns}) VALUES ({places}) "
    "ON CONFLICT (item, attempt) DO UPDATE SET {updates}"
)
_OUTCOMES: Final = {
    kind.__name__: kind for kind in (Succeeded, Failed, Stopped, Preempted, Lost, Refused, Errored)
}


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What the journal knows about one attempt."""

    lease: Lease
    #: False proves that no start was ever sent.
    start_sent: bool
    log_resume: str
    outcome: Outcome | None
    #: The outcome was acknowledged, or the attempt is not held by this agent any more.
    over: bool


@dataclass(slots=True)
class _Write:
    sql: str
    values: tuple[Any, ...]
    #: Set when the write is durable, for one that is awaited.
    done: asyncio.Future[None] | None


class Journal:
    """`AttemptJournal` on disk. Open it with `Journal.open`, and `close` it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._pending: list[_Write] = []
        self._committing: asyncio.Task[None] | None = None
        self._delayed: asyncio.TimerHandle | None = None
        #: Used in the writer thread only.
        self._database: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the file or create it; a damaged one is set aside.

        Raises:
            ConfigError: the folder cannot be written.
        """
        journal = cls(path)
        try:
            journal._database = await journal._in_thread(lambda: _open(path))
        except BaseException:
            journal._thread.shutdown()
            raise
        return journal

    async def close(self) -> None:
        """Commit pending writes, then close; repeating the call has no effect."""
        await self._flush()
        database, self._database = self._database, None
        if database is not None:
            await self._in_thread(database.close)
        self._thread.shutdown()

    def opened(self, lease: Lease) -> None:
        """No start was sent so far under any lease of this attempt."""
        self._write_later(lease, start_sent=0, outcome=None, over=0)
        # Committed now, so that it is nearly always durable before the permit is requested:
        # after a crash between the two it proves that no start was sent.
        self._commit_now()

    async def reopened(self, lease: Lease) -> None:
        """As `opened`; durable on return, since nothing is prepared before the permit."""
        await self._submit(*_upsert(lease, start_sent=0, outcome=None, over=0))

    async def start_sent(self, lease: Lease) -> None:
        """The start will be sent now, and never again. Durable on return."""
        await self._submit(*_upsert(lease, start_sent=1))

    def log_resumes(self, lease: Lease, point: str) -> None:
        """Where a later process resumes the job's log: text of a `ResumePoint`."""
        self._write_later(lease, log_resume=point)
        # No other write may follow for hours, and a later process computes log positions from it.
        self._commit_now()

    async def outcome_known(self, lease: Lease, outcome: Outcome) -> None:
        """The outcome, to be reported until it is acknowledged. Durable on return."""
        await self._submit(*_upsert(lease, outcome=_encode(outcome)))

    def closed(self, lease: Lease) -> None:
        """The control plane has the outcome, or the attempt is not held by this agent any more."""
        self._write_later(lease, over=1)

    async def entries(self) -> list[JournalEntry]:
        """All entries."""
        await self._flush()
        try:
            return await self._in_thread(self._read)
        except sqlite3.Error as error:
            message = f"The agent's journal {self._path} cannot be read: {error}."
            raise JobError(Cause.INTERNAL, message) from error

    async def forget(self, older_than: float) -> None:
        """Remove entries that are over and unchanged for `older_than` seconds; 0: none."""
        if older_than:
            await self._submit(
                "DELETE FROM attempt WHERE over AND changed_at < ?", (time.time() - older_than,)
            )

    def _write_later(self, lease: Lease, **columns: Any) -> None:
        self._pending.append(_Write(*_upsert(lease, **columns), None))
        if self._delayed is None:
            self._delayed = asyncio.get_running_loop().call_later(_COMMIT_DELAY, self._commit_now)

    async def _submit(self, sql: str, values: tuple[Any, ...]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(_Write(sql, values, done))
        self._commit_now()
        await done

    def _commit_now(self) -> None:
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all(), name="journal")

    async def _flush(self) -> None:
        """Wait until no write is pending; those that failed have been logged."""
        if self._pending:
            self._commit_now()
        while self._committing is not None and not self._committing.done():
            await asyncio.wait({self._committing})

    async def _commit_all(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            error = await self._try(batch)
            waiting = [one.done for one in batch if one.done and not one.done.done()]
            for done in waiting:
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    async def _try(self, batch: list[_Write]) -> JobError | None:
        try:
            await self._in_thread(lambda: self._commit(batch))
        except Exception as error:  # noqa: BLE001 -- any failure must reach those who await the write
            structlog.get_logger().error("the journal could not be written", error=str(error))
            full = "disk is full" in str(error)
            cause = Cause.DISK_FULL if full else Cause.INTERNAL
            return JobError(cause, f"The agent's journal {self._path} cannot be written: {error}.")
        return None

    def _commit(self, batch: list[_Write]) -> None:
        database = self._opened_database()
        with database:
            database.execute("BEGIN IMMEDIATE")
            for write in batch:
                database.execute(write.sql, write.values)

    def _read(self) -> list[JournalEntry]:
        rows = self._opened_database().execute(
            "SELECT item, attempt, epoch, start_sent, log_resume, outcome, over"
            " FROM attempt ORDER BY item, attempt"
        )
        return [
            JournalEntry(
                Lease(item, attempt, epoch),
                start_sent=bool(sent),
                log_resume=point,
                outcome=_decode(encoded) if encoded else None,
                over=bool(over),
            )
            for item, attempt, epoch, sent, point, encoded, over in rows
        ]

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
        raise ConfigError(message, hint="Check the permissions of `state_dir`.") from error
    except sqlite3.DatabaseError as error:
        aside = _set_aside(path)
        structlog.get_logger().error(
            "the journal is damaged; recovering from labels and the control plane",
            error=str(error),
            kept_as=str(aside),
        )
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)  # its companions get the same mode
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (check,) = database.execute("PRAGMA quick_check").fetchone()
        if check != "ok" or version not in {0, _VERSION}:
            raise sqlite3.DatabaseError(f"version {version}, check: {check}")
        if version == 0:
            database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    except BaseException:
        database.close()
        raise
    return database


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    for companion in ("-wal", "-shm"):
        Path(f"{path}{companion}").unlink(missing_ok=True)
    return aside


def _upsert(lease: Lease, **columns: Any) -> tuple[str, tuple[Any, ...]]:
    written = {
        "item": lease.item_id,
        "attempt": lease.attempt,
        "epoch": lease.epoch,
        "changed_at": time.time(),  # wall-clock time, since ages are compared across reboots
        **columns,
    }
    sql = _UPSERT.format(
        columns=", ".join(written),
        places=", ".join("?" for _ in written),
        updates=", ".join(f"{name} = excluded.{name}" for name in written),
    )
    return sql, tuple(written.values())


def _encode(outcome: Outcome) -> str:
    return json.dumps({"kind": type(outcome).__name__} | asdict(outcome))


def _decode(text: str) -> Outcome:
    stored = json.loads(text)
    kind = _OUTCOMES[stored.pop("kind")]
    return kind(**stored | {"cause": Cause(stored["cause"])})
