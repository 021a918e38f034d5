"""A transaction, and the contract of a database.

Work inside a transaction is a plain function of a `Tx`: it cannot await, so nothing slow
happens while locks are held. It may run again after a deadlock, so it changes nothing but the
store.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Executable, Insert, Row, Table

T = TypeVar("T")
AnyRow = Row[Any]


class Tx:
    """An open transaction, with the store's time."""

    def __init__(self, connection: Connection, clock: Callable[[Connection], float]) -> None:
        self.connection = connection
        self._clock = clock
        self._now: float | None = None
        self.topics: dict[str, None] = {}

    @property
    def now(self) -> float:
        """Seconds since 1970 by the store's clock; constant within the transaction."""
        if self._now is None:
            self._now = self._clock(self.connection)
        return self._now

    def run(
        self, statement: Executable, values: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> CursorResult[Any]:
        """Execute a statement."""
        return cast("CursorResult[Any]", self.connection.execute(statement, values))

    def one(self, statement: Executable, **values: Any) -> AnyRow | None:
        """The first row, if there is one."""
        return self.run(statement, values).first()

    def require(self, statement: Executable, **values: Any) -> AnyRow:
        """The one row that must exist."""
        return self.run(statement, values).one()

    def all(self, statement: Executable, **values: Any) -> Sequence[AnyRow]:
        """All rows."""
        return self.run(statement, values).all()

    def changed(self, statement: Executable, **values: Any) -> int:
        """Execute a write; how many rows it changed."""
        return self.run(statement, values).rowcount

    def insert_new(self, table: Table, values: Mapping[str, Any]) -> bool:
        """Insert unless a row with that key exists; true when it was inserted.

        On PostgreSQL a concurrent insert of the same key is waited for.
        """
        statement = _insert_or_nothing(self.connection, table)
        return self.run(statement.values(values)).rowcount == 1

    def insert_all_new(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert many; rows whose key exists stay as they are."""
        if rows:
            self.run(_insert_or_nothing(self.connection, table), rows)

    def insert_or_update(self, table: Table, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Insert many; rows whose key exists take the new value of one column."""
        statement = _insert(self.connection, table)
        fresh = {name: statement.excluded[name]}
        keys = list(table.primary_key.columns)
        if rows:
            self.run(statement.on_conflict_do_update(index_elements=keys, set_=fresh), rows)

    def notify(self, *topics: str) -> None:
        """Notify subscribers of these topics once this is committed."""
        self.topics.update(dict.fromkeys(topics))


def _insert(connection: Connection, table: Table) -> Any:
    """The statement in the database's SQL dialect; the other one is not imported."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def _insert_or_nothing(connection: Connection, table: Table) -> Insert:
    statement: Insert = _insert(connection, table).on_conflict_do_nothing()
    return statement


class Database(Protocol):
    """A store: `write` for changes, `read` for a consistent view.

    Raises of both: what the work raises (and nothing is changed then);
    `UnreachableError` when the database server does not answer; `ServerError` when the
    database file cannot be used, for a full disk for example.
    """

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run in a transaction, commit, then notify."""

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run in a transaction that changes nothing."""
