"""Statements of hot paths: compiled once by SQLAlchemy, then given to the driver as they are.

SQLAlchemy's own execution of a small statement takes about ten times as long as the statement.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from sqlalchemy import Connection, Dialect, Insert, Row, Select, Update
from sqlalchemy.exc import DBAPIError

Processor = Callable[[Any], Any]
AnyRow = Row[Any]


class Prepared:
    """A statement whose parameters are all named; it has no list of variable length.

    A select gives rows with its columns as attributes. An insert or update sets the columns that
    it is given besides its own parameters, and gives no rows.
    """

    def __init__(self, statement: Select[Any] | Insert | Update) -> None:
        # Without `inline`, an insert would also ask for its key.
        self.statement: Final = statement.inline() if isinstance(statement, Insert) else statement
        self.is_select: Final = isinstance(statement, Select)
        self._forms: dict[tuple[str, tuple[str, ...]], _Form] = {}

    def execute(
        self, connection: Connection, values: Mapping[str, Any]
    ) -> tuple[Sequence[AnyRow], int]:
        """The rows of a select; the number of rows that a write changed."""
        return self._form(connection.dialect, values).execute(connection, values)

    def execute_many(self, connection: Connection, many: Sequence[Mapping[str, Any]]) -> None:
        """A write for several rows, in this order, with the same columns of each."""
        self._form(connection.dialect, many[0]).execute_many(connection, many)

    def _form(self, dialect: Dialect, values: Mapping[str, Any]) -> "_Form":
        key = (dialect.name, () if self.is_select else tuple(values))
        form = self._forms.get(key)
        if form is None:
            form = self._forms[key] = _Form(self.statement, dialect, key[1] or None)
        return form


class _Form:
    """The text for one dialect, and what its driver is given and gives."""

    def __init__(
        self,
        statement: Select[Any] | Insert | Update,
        dialect: Dialect,
        column_keys: Sequence[str] | None,
    ) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=column_keys)
        self._text = str(compiled)
        # Literals of the statement are parameters with values of their own.
        self._binds: list[tuple[str, Processor | None, Any]] = [
            (name, _to_driver(compiled.binds[name].type, dialect), compiled.params[name])
            for name in compiled.positiontup or ()
        ]
        self._row: Callable[[Any], Any] | None = None
        self._kinds: list[Any] = []
        #: Places of columns whose values are converted; known once the driver has told its types.
        self._columns: list[tuple[int, Processor]] | None = None
        if isinstance(statement, Select):
            columns = list(statement.selected_columns)
            row = namedtuple("Found", [each.key for each in columns])  # type: ignore[misc]  # noqa: PYI024 -- its columns are known only here
            self._row = row._make
            self._kinds = [each.type.dialect_impl(dialect) for each in columns]

    def execute(
        self, connection: Connection, values: Mapping[str, Any]
    ) -> tuple[Sequence[AnyRow], int]:
        given = self._given(values)
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._text, given)
            if self._row is None:
                return (), cursor.rowcount
            if self._columns is None:
                self._columns = self._converted(connection.dialect, cursor.description)
            return self._rows(cursor.fetchall(), self._row, self._columns), cursor.rowcount
        except connection.dialect.loaded_dbapi.Error as error:
            raise self._translated(connection, given, error) from error
        finally:
            cursor.close()

    def execute_many(self, connection: Connection, many: Sequence[Mapping[str, Any]]) -> None:
        given = [self._given(values) for values in many]
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(self._text, given)
        except connection.dialect.loaded_dbapi.Error as error:
            raise self._translated(connection, given, error) from error
        finally:
            cursor.close()

    def _given(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(
            convert(values.get(name, default)) if convert else values.get(name, default)
            for name, convert, default in self._binds
        )

    def _converted(self, dialect: Dialect, description: Any) -> list[tuple[int, Processor]]:
        by_place = enumerate(zip(self._kinds, description, strict=True))
        found = ((place, kind.result_processor(dialect, of[1])) for place, (kind, of) in by_place)
        return [(place, convert) for place, convert in found if convert is not None]

    @staticmethod
    def _rows(
        found: Sequence[Sequence[Any]],
        make: Callable[[Any], Any],
        columns: Sequence[tuple[int, Processor]],
    ) -> Sequence[AnyRow]:
        rows = []
        for each in found:
            values = list(each)
            for place, convert in columns:
                values[place] = convert(values[place])
            rows.append(cast("AnyRow", make(values)))
        return rows

    def _translated(
        self, connection: Connection, given: Sequence[Any], error: Exception
    ) -> BaseException:
        """As SQLAlchemy raises it; a connection that was cut is not used again."""
        dialect = connection.dialect
        base = dialect.loaded_dbapi.Error
        cut = dialect.is_disconnect(cast("Any", error), cast("Any", connection.connection), None)
        if cut:
            connection.invalidate(error)
        return DBAPIError.instance(
            self._text, given, error, base, connection_invalidated=cut, dialect=dialect
        )


def _to_driver(kind: Any, dialect: Dialect) -> Processor | None:
    found: Processor | None = kind.dialect_impl(dialect).bind_processor(dialect)
    return found
