"""W&B's filter documents and orders of runs, as SQL.

A filter is written as for MongoDB: `{"$and": [{"state": "running"}, {"config.lr.value": {"$gt":
0.1}}]}`. Conditions on config and summary compare numbers with numbers and texts with texts.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Text,
    and_,
    cast,
    false,
    func,
    not_,
    or_,
    select,
    true,
    type_coerce,
)

from agent.control.store.run_tables import run_values, runs
from agent.control.store.tables import projects
from agent.model.errors import InvalidInputError

Condition = ColumnElement[bool]

_COLUMNS: Final = {
    "state": runs.c.state,
    "name": runs.c.name,
    "display_name": runs.c.display_name,
    "group": runs.c.group_name,
    "job_type": runs.c.job_type,
    "sweep": runs.c.sweep,
    "user": runs.c.user_name,
    "username": runs.c.user_name,
    "user.username": runs.c.user_name,
    "notes": runs.c.notes,
    "description": runs.c.description,
    "host": runs.c.host,
    "commit": runs.c.commit_hash,
    "created_at": runs.c.created_at,
    "heartbeat_at": runs.c.heartbeat_at,
    "updated_at": runs.c.heartbeat_at,
    "ended_at": runs.c.ended_at,
}
_TIMES: Final = {"created_at", "heartbeat_at", "updated_at", "ended_at"}
_NEVER_NULL: Final = {"state", "name", "display_name", *_TIMES} - {"ended_at"}
_DOCUMENTS: Final = {"config": "config", "summary": "summary", "summary_metrics": "summary"}
_SPELLINGS: Final = {"sweep_name": "sweep", "group_name": "group"}
_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "$eq": lambda a, b: a == b,
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}
_CAPITAL: Final = re.compile("(?<=[a-z])[A-Z]")
#: Conditions of one filter, and filters within each other.
_MAX_TERMS: Final = 500
_MAX_LEVELS: Final = 20
#: A pattern without operators other than `^`, `$` and `.*`.
_LITERAL: Final = re.compile(r"(?:[^\\.*+?\[\](){}|^$]|\\[^A-Za-z0-9]|\.\*)*")


class RunFilter:
    """Compiles filter documents for the runs of one project."""

    def __init__(self, entity: str, project: str) -> None:
        of_project = (projects.c.entity == entity, projects.c.name == project)
        self._project = select(projects.c.number).where(*of_project).scalar_subquery()
        self._terms = 0

    def where(self, document: Any, level: int = 0) -> Condition:
        """The condition that a filter document stands for.

        Raises:
            InvalidInputError: a key or an operator that is not known, or too many of them.
        """
        if document is None:
            return true()
        if not isinstance(document, dict):
            raise InvalidInputError("A filter of runs must be a JSON object.")
        if level > _MAX_LEVELS:
            raise InvalidInputError(f"The filter has more than {_MAX_LEVELS} levels.")
        parts = [self._part(key, value, level) for key, value in document.items()]
        return and_(true(), *parts)

    def order(self, text: str) -> "Column | Value":
        """What an order such as `-summary_metrics.loss` is by.

        Raises:
            InvalidInputError: the key is not known.
        """
        return self._field(_key(text.lstrip("+-")))

    def _part(self, key: str, value: Any, level: int) -> Condition:
        self._terms += 1
        if self._terms > _MAX_TERMS:
            raise InvalidInputError(f"The filter has more than {_MAX_TERMS} conditions.")
        if key in {"$and", "$or", "$nor"}:
            if not isinstance(value, list):
                raise InvalidInputError(f"`{key}` of a filter takes a list.")
            parts = [self.where(each, level + 1) for each in value]
            if key == "$and":
                return and_(true(), *parts)
            found = or_(false(), *parts)
            return _none_of(found) if key == "$nor" else found
        if key == "$not":
            return _none_of(self.where(value, level + 1))
        conditions = value if _is_operators(value) else {"$eq": value}
        return and_(true(), *(self._condition(_key(key), *pair) for pair in conditions.items()))

    def _condition(self, key: str, operator: str, value: Any) -> Condition:
        self._terms += 1
        match operator:
            case "$not":
                inner = value if _is_operators(value) else {"$eq": value}
                found = and_(true(), *(self._condition(key, *pair) for pair in inner.items()))
                return _none_of(found)
            case "$ne" | "$nin":
                same = self._condition(key, "$eq" if operator == "$ne" else "$in", value)
                return _none_of(same)
            case "$in":
                if not isinstance(value, list) or len(value) > _MAX_TERMS:
                    raise InvalidInputError(f"`$in` takes a list of at most {_MAX_TERMS} values.")
                return or_(false(), *(self._condition(key, "$eq", each) for each in value))
            case _:
                return (
                    _tagged(operator, value) if key == "tags" else self._one(key, operator, value)
                )

    def _one(self, key: str, operator: str, value: Any) -> Condition:
        field = self._field(key)
        if operator in {"$regex", "$contains"}:
            return field.like(_pattern(operator, value))
        if operator == "$exists" or (operator == "$eq" and value is None):
            return field.exists() if operator == "$exists" and value else not_(field.exists())
        if operator not in _COMPARISONS:
            hint = "Use $eq, $ne, $in, $nin, $gt, $gte, $lt, $lte, $exists, $regex, $and, $or."
            raise InvalidInputError(f"The operator `{operator[:40]}` is not known.", hint=hint)
        return field.compared(_COMPARISONS[operator], value)

    def _field(self, key: str) -> "Column | Value":
        if key in _COLUMNS:
            return Column(key)
        root, _, path = key.partition(".")
        if root not in _DOCUMENTS or not path:
            known = ", ".join([*sorted(_COLUMNS), "tags", "config.…", "summary_metrics.…"])
            message = f"Runs have no '{key[:80]}' to filter or order by."
            raise InvalidInputError(message, hint=f"Use {known}.")
        if root == "config":
            first, *rest = path.split(".")
            path = ".".join([first, *(rest[1:] if rest[:1] == ["value"] else rest)])
            path = path.removesuffix(".value")
        return Value(self._project, f"{_DOCUMENTS[root]}.{path}")


class Column:
    """A column of runs."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.column: ColumnElement[Any] = _COLUMNS[key]

    def exists(self) -> Condition:
        """Whether a run has a value there."""
        return self.column.is_not(None)

    def like(self, pattern: str) -> Condition:
        """Whether it is like a pattern of LIKE."""
        return cast(self.column, Text).like(pattern, escape="\\")

    def compared(self, compare: Callable[[Any, Any], Any], value: Any) -> Condition:
        """Whether a comparison with a value holds; it does not with one of another kind."""
        if self._key in _TIMES:
            return compare(self.column, _seconds(value))  # type: ignore[no-any-return]
        if not isinstance(value, str):
            return false()
        return compare(self.column, value)  # type: ignore[no-any-return]

    def terms(self, *, falling: bool) -> list[ColumnElement[Any]]:
        """The terms of an order; runs without a value are last."""
        term = self.column.desc() if falling else self.column.asc()
        if self._key not in _NEVER_NULL:
            return [term.nulls_last(), runs.c.seq.desc()]
        # In one direction, and with nulls where databases have them, so that an index serves it.
        return [term, runs.c.seq.desc() if falling else runs.c.seq.asc()]


class Value:
    """A value of a config or summary."""

    def __init__(self, project: ScalarSelect[Any], key: str) -> None:
        #: Rows of `run_values` with that key.
        self.rows = (run_values.c.project_number == project, run_values.c.key == key)

    def exists(self) -> Condition:
        """Whether a run has a value there."""
        kinds = (run_values.c.number, run_values.c.text, run_values.c.truth)
        return or_(*(self._runs(kind.is_not(None)) for kind in kinds))

    def like(self, pattern: str) -> Condition:
        """Whether it is a text like a pattern of LIKE."""
        return self._runs(run_values.c.text.like(pattern, escape="\\"))

    def compared(self, compare: Callable[[Any, Any], Any], value: Any) -> Condition:
        """Whether a comparison with a value holds; it does not with one of another kind."""
        if isinstance(value, bool):
            return self._runs(compare(run_values.c.truth, value))
        if isinstance(value, int | float):
            return self._runs(compare(run_values.c.number, _number(value)))
        if isinstance(value, str):
            return self._runs(compare(run_values.c.text, value))
        return false()

    def _runs(self, condition: Condition) -> Condition:
        return runs.c.seq.in_(select(run_values.c.run_seq).where(*self.rows, condition))


def _is_operators(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(key.startswith("$") for key in value)


def _none_of(found: Condition) -> Condition:
    """A condition that does not hold; one on a value that is not there does not hold either."""
    return not_(func.coalesce(found, false()))


def _key(key: str) -> str:
    """A key in the spelling of columns: `displayName` is `display_name`."""
    root, dot, rest = key.partition(".")
    snake = _CAPITAL.sub(lambda found: f"_{found[0].lower()}", root)
    return _SPELLINGS.get(snake, snake) + dot + rest


def _tagged(operator: str, value: Any) -> Condition:
    """Whether a run has a tag: tags are kept as a JSON list of texts."""
    if operator == "$exists":
        return (type_coerce(runs.c.tags, Text) != "[]") == bool(value)
    if operator != "$eq" or not isinstance(value, str):
        message = "Tags are compared by $eq, $ne, $in and $nin with texts."
        raise InvalidInputError(message, hint='For example {"tags": {"$in": ["best"]}}.')
    return type_coerce(runs.c.tags, Text).like(f"%{_escaped(json.dumps(value))}%", escape="\\")


def _pattern(operator: str, value: Any) -> str:
    """A pattern for LIKE; `$regex` may have `^`, `$` and `.*` beside plain text."""
    if not isinstance(value, str):
        raise InvalidInputError(f"`{operator}` takes a text.")
    if operator == "$contains":
        return f"%{_escaped(value)}%"
    inner = value.removeprefix("^").removesuffix("$")
    if not _LITERAL.fullmatch(inner):
        raise InvalidInputError(
            f"`$regex` takes plain text with `^`, `$` and `.*`; seen: '{value[:80]}'.",
            hint="Combine several patterns by `$or`.",
        )
    parts = [re.sub(r"\\(.)", r"\1", part) for part in inner.split(".*")]
    middle = "%".join(_escaped(part) for part in parts)
    before, after = "" if value.startswith("^") else "%", "" if value.endswith("$") else "%"
    return f"{before}{middle}{after}"


def _escaped(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InvalidInputError("A number of the filter has more than 308 digits.") from None


def _seconds(value: Any) -> float:
    """A time as stored: of a number of seconds, or a text as of ISO 8601, in UTC without zone."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise InvalidInputError(f"'{str(value)[:40]}' is not a time as of ISO 8601.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
