"""One transaction, and the contract of a database.

Work inside a transaction is a plain function of a `Tx`: it cannot await, so nothing slow can
happen while locks are held. It may be run again after a deadlock, so it changes nothing but
the store.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Executable, Row, Table
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")
AnyRow = Row[Any]


class Tx:
    """A transaction under way, with the store's idea of now."""

    def __init__(self, connection: Connection, clock: Callable[[Connection], float]) -> None:
        self.connection = connection
        self._clock = clock
        self._now: float | None = None
        self.topics: dict[str, None] = {}

    @property
    def now(self) -> float:
        """Seconds since 1970 by the store's clock; the same throughout."""
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

    def sure(self, statement: Executable, **values: Any) -> AnyRow:
        """The one row that must be there."""
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
        dialect = postgresql if self.connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(values).on_conflict_do_nothing()
        return self.run(statement).rowcount == 1

    def insert_all_new(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert many; rows whose key exists stay as they are."""
        if rows:
            dialect = postgresql if self.connection.dialect.name == "postgresql" else sqlite
            self.run(dialect.insert(table).on_conflict_do_nothing(), rows)

    def ring(self, *topics: str) -> None:
        """Wake those who listen to these topics, once this is committed."""
        self.topics.update(dict.fromkeys(topics))


class Database(Protocol):
    """A store: `write` for changes, `read` for a consistent look.

    Raises of both: what the work raises (and nothing is changed then);
    `UnreachableError` when the database does not answer.
    """

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run in a transaction, commit, then ring."""

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run in a transaction that changes nothing."""
