"""A transaction, and the contract of a database.

Work inside a transaction is a plain function of a `Tx`: it cannot await, so nothing slow
happens while locks are held. It may run again after a deadlock (`postgres.py`; SQLite has one
writer and no deadlock), so it changes nothing but the store.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar
from enum import Enum, auto
from typing import Any, Final, Protocol, TypeVar, cast

from sqlalchemy import (
    Column,
    Connection,
    CursorResult,
    Executable,
    Insert,
    Row,
    Select,
    Table,
    Text,
    func,
    select,
    type_coerce,
)

from agent.control.store.prepared import Prepared
from agent.model.errors import InvalidInputError

T = TypeVar("T")
AnyRow = Row[Any]

#: Bytes counted for each row in addition to its texts and documents.
_ROW: Final = 256
#: Rows per fetch.
_ROWS: Final = 100
#: Pages of at most so many rows are read without measuring their documents first.
_NOT_MEASURED: Final = 20


class AnswerTooLargeError(InvalidInputError):
    """An answer would have more bytes than are allowed."""

    code = "TOO_LARGE"

    def __init__(self, limit: int) -> None:
        message = f"This answer would need more than {limit} bytes."
        super().__init__(message, hint="Ask for smaller pages (`first`), or for fewer at a time.")


class ReadBudget:
    """How many bytes may be read from the store for one answer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit

    def spend(self, size: int) -> None:
        """Count bytes that were read.

        Raises:
            AnswerTooLargeError: no more are allowed.
        """
        self.left -= size
        if self.left < 0:
            raise AnswerTooLargeError(self.limit)


#: Of the present request; without one, reading is not limited.
READ_BUDGET: Final[ContextVar[ReadBudget | None]] = ContextVar("read budget", default=None)


class Postponed:
    """Writes of `Tx.later` that have not been executed."""

    def __init__(self) -> None:
        self._alike: dict[tuple[Prepared, tuple[str, ...]], list[Mapping[str, Any]]] = {}
        self._of_row: dict[Hashable, tuple[Prepared, tuple[str, ...]]] = {}

    def add(
        self, connection: Connection, statement: Prepared, row: Hashable, values: Mapping[str, Any]
    ) -> None:
        """Postpone a write.

        If another statement's write of the same row is postponed, all are executed first.
        """
        kind = (statement, tuple(values))
        if self._of_row.get(row, kind) != kind:
            self.flush(connection)
        self._of_row[row] = kind
        self._alike.setdefault(kind, []).append(values)

    def flush(self, connection: Connection) -> None:
        """Execute all, those of one statement at once."""
        for (statement, _), many in self._alike.items():
            statement.execute_many(connection, many)
        self._alike.clear()
        self._of_row.clear()


class Tx:
    """An open transaction, with the store's time."""

    def __init__(
        self,
        connection: Connection,
        clock: Callable[[Connection], float],
        postponed: Postponed | None = None,
    ) -> None:
        self.connection = connection
        #: Shared by the works of one batch; `None`: writes are executed at once.
        self._postponed = postponed
        self._clock = clock
        self._now: float | None = None
        self.topics: dict[str, None] = {}
        #: Whether something was executed that may have changed the store.
        self.wrote = False

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
        self.wrote = self.wrote or not isinstance(statement, Select)
        return cast("CursorResult[Any]", self.connection.execute(statement, values))

    def one(self, statement: Executable | Prepared, **values: Any) -> AnyRow | None:
        """The first row, if there is one."""
        if isinstance(statement, Prepared):
            rows, _ = statement.execute(self.connection, values)
            return rows[0] if rows else None
        return self.run(statement, values).first()

    def require(self, statement: Executable | Prepared, **values: Any) -> AnyRow:
        """The one row that must exist."""
        if isinstance(statement, Prepared):
            (row,), _ = statement.execute(self.connection, values)
            return row
        return self.run(statement, values).one()

    def all(self, statement: Executable | Prepared, **values: Any) -> Sequence[AnyRow]:
        """All rows.

        Raises:
            AnswerTooLargeError: more than may be read for one answer.
        """
        budget = READ_BUDGET.get()
        if isinstance(statement, Prepared):
            found, _ = statement.execute(self.connection, values)
            if budget is not None:
                budget.spend(sum(_ROW + _text_size(row) for row in found))
            return found
        if budget is None:
            return self.run(statement, values).all()
        rows: list[AnyRow] = []
        for part in self.run(statement, values).partitions(_ROWS):
            budget.spend(sum(_ROW + _text_size(row) for row in part))
            rows += part
        return rows

    def page(
        self, query: Select[Any], limit: int, documents: Sequence[Column[Any]]
    ) -> Sequence[AnyRow]:
        """As `all`, at most so many rows; the size of their documents is found out before.

        Raises:
            AnswerTooLargeError: more than may be read for one answer.
        """
        budget = READ_BUDGET.get()
        limited = query.limit(limit)
        if budget is not None and limit > _NOT_MEASURED:
            sizes = [func.coalesce(func.length(type_coerce(each, Text)), 0) for each in documents]
            part = limited.with_only_columns(sum(sizes[1:], sizes[0]).label("size")).subquery()
            size = self.run(select(func.coalesce(func.sum(part.c.size), 0))).scalar_one()
            if size > budget.left:
                raise AnswerTooLargeError(budget.limit)
        return self.all(limited)

    def changed(self, statement: Executable | Prepared, **values: Any) -> int:
        """Execute a write; how many rows it changed."""
        if isinstance(statement, Prepared):
            self.wrote = True
            return statement.execute(self.connection, values)[1]
        return self.run(statement, values).rowcount

    def later(self, statement: Prepared, row: Hashable, **values: Any) -> None:
        """Postpone a write until `flush` or the end of the transaction; nothing may read it before.

        `row` names what it changes. On PostgreSQL it shares its round trip with others.
        """
        self.wrote = True
        if self._postponed is None:
            statement.execute(self.connection, values)
            return
        self._postponed.add(self.connection, statement, row, dict(sorted(values.items())))

    def flush(self) -> None:
        """Execute the postponed writes; called before what they change is read."""
        if self._postponed is not None:
            self._postponed.flush(self.connection)

    def insert_new(self, table: Table, values: Mapping[str, Any]) -> bool:
        """Insert unless a row with that key exists; true when it was inserted.

        On PostgreSQL a concurrent insert of the same key is waited for.
        """
        statement = _insert_or_nothing(self.connection, table)
        return self.run(statement.values(values)).rowcount == 1

    def insert_or_replace(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert many; of rows whose key exists the other columns are replaced."""
        if not rows:
            return
        statement = _insert(self.connection, table)
        key = {column.name for column in table.primary_key.columns}
        others = {one.name: statement.excluded[one.name] for one in table.c if one.name not in key}
        self.run(statement.on_conflict_do_update(index_elements=sorted(key), set_=others), rows)

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


def _text_size(row: AnyRow) -> int:
    return sum(len(value) for value in row if type(value) is str)


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


class Turn(Enum):
    """When a write that has to wait is made, and whether it shares a transaction with others."""

    #: Before all others, shared: what agents report about items that they hold.
    URGENT = auto()
    #: Shared: short, and locking rows of one agent, or none that others lock for long.
    SHARED = auto()
    #: On its own, where several transactions can be open at once.
    ALONE = auto()


class Database(Protocol):
    """A store: `write` for changes, `read` for a consistent view.

    Raises of both: what the work raises (and nothing is changed then);
    `OverloadedError` when too many writes wait;
    `UnreachableError` when the database server does not answer; `ServerError` when the
    database file cannot be used, for a full disk for example.
    """

    async def write(self, work: Callable[[Tx], T], turn: Turn = Turn.ALONE) -> T:
        """Run in a transaction, commit, then notify."""

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run in a transaction that changes nothing."""
