"""W&B runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import islice
from typing import Any, Final

from sqlalchemy import Select, and_, bindparam, delete, func, or_, select, text, update

from agent.control.store.run_filters import RunFilter, Value
from agent.control.store.run_tables import ALIVE_ONLY, run_streams, run_values, runs
from agent.control.store.tables import projects, record_of
from agent.control.store.tx import AnyRow, Tx
from agent.model.spec import Json

_CREATION: Final = {"created_at", "createdAt"}
#: Ids in one query.
_IDS: Final = 500


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a run is, and what is asked of it at each of its writes."""

    id: str
    entity: str
    project: str
    name: str
    state: str
    #: Somebody asked it to stop.
    stopped: bool
    #: The item that launched it, if one did.
    item_id: str | None


@dataclass(frozen=True, slots=True)
class RunRecord(RunPlace):
    """A W&B run, without its streams."""

    project_number: int
    display_name: str | None
    description: str | None
    notes: str | None
    tags: tuple[str, ...]
    group: str | None
    job_type: str | None
    commit: str | None
    config: Json
    summary: Json
    exit_code: int | None
    host: str | None
    program: str | None
    git_remote: str | None
    sweep: str | None
    user: str | None
    created_at: datetime
    #: Of its last write.
    heartbeat_at: datetime
    ended_at: datetime | None
    #: One more than the number of the highest row of its history.
    history_lines: int


_PROJECT: Final = (projects.c.entity == runs.c.entity) & (projects.c.name == runs.c.project)
_DOCUMENTS: Final = (runs.c.config, runs.c.summary)
_VALUE_KINDS: Final = ("number", "text", "truth")
_VALUES: Final = [run_values.c[name].label(name) for name in ("key", *_VALUE_KINDS)]
_HISTORY: Final = (run_streams.c.run_id == runs.c.id) & (run_streams.c.stream == "history")
_WITH_PROJECT: Final = (
    select(
        runs,
        projects.c.number.label("project_number"),
        func.coalesce(run_streams.c.line_count, 0).label("history_lines"),
    )
    .join(projects, _PROJECT)
    .outerjoin(run_streams, _HISTORY)
)
#: Simple values of one config or summary that filters and orders can name, and their length.
_MAX_VALUES: Final = 1_000
_MAX_VALUE: Final = 256
_MAX_LEVEL: Final = 20
_MAX_NUMBER: Final = 1e300
#: Integers beyond are compared as floating-point numbers.
_EXACT: Final = 2**53


def by_id(tx: Tx, run_id: str) -> RunRecord | None:
    """A run by id."""
    row = tx.one(_WITH_PROJECT.where(runs.c.id == run_id))
    return _record(row) if row else None


def by_name(tx: Tx, entity: str, project: str, name: str) -> RunRecord | None:
    """A run by entity, project and name."""
    where = (runs.c.entity == entity, runs.c.project == project, runs.c.name == name)
    row = tx.one(_WITH_PROJECT.where(*where))
    return _record(row) if row else None


def known_ids(tx: Tx, ids: Sequence[str]) -> set[str]:
    """Those of the ids that belong to a run."""
    found: set[str] = set()
    for start in range(0, len(ids), _IDS):
        query = select(runs.c.id).where(runs.c.id.in_(ids[start : start + _IDS]))
        found |= {row.id for row in tx.all(query)}
    return found


def place(tx: Tx, entity: str, project: str, name: str, *, lock: bool) -> RunPlace | None:
    """Where a run is; `lock` keeps other writers waiting until the transaction ends."""
    where = (runs.c.entity == entity, runs.c.project == project, runs.c.name == name)
    query = select(*(runs.c[field.name] for field in fields(RunPlace))).where(*where)
    row = tx.one(query.with_for_update() if lock else query)
    return None if row is None else record_of(RunPlace, row)


def lock(tx: Tx, run_id: str) -> AnyRow | None:
    """Lock a run until the transaction ends; `None` when there is none."""
    return tx.one(select(runs.c.id).where(runs.c.id == run_id).with_for_update())


def require(tx: Tx, run_id: str) -> RunRecord:
    """As `by_id`, of a run that exists."""
    return _record(tx.require(_WITH_PROJECT.where(runs.c.id == run_id)))


def insert(tx: Tx, values: dict[str, Any]) -> RunRecord:
    """A new run, or the one of that name that another client inserted meanwhile."""
    tx.insert_new(runs, {"created_at": tx.now, "heartbeat_at": tx.now, **values})
    where = [runs.c[key] == values[key] for key in ("entity", "project", "name")]
    return _record(tx.require(_WITH_PROJECT.where(*where)))


def change(tx: Tx, run_id: str, values: dict[str, Any]) -> None:
    """Change columns; of a config or summary also the values that filters name."""
    if values:
        tx.run(update(runs).where(runs.c.id == run_id).values(**values))
    if "config" in values:
        _index(tx, run_id, "config", config_values(values["config"]))
    if "summary" in values:
        _index(tx, run_id, "summary", values["summary"])


#: A run's place, and its values below a key; one row without a value where it has none.
_STORED: Final = (
    select(runs.c.seq, projects.c.number.label("project_number"), *_VALUES)
    .join(projects, _PROJECT)
    .outerjoin(
        run_values,
        and_(
            run_values.c.run_seq == runs.c.seq,
            run_values.c.key.like(bindparam("keys")),
        ),
    )
    .where(runs.c.id == bindparam("run_id"))
)


def _index(tx: Tx, run_id: str, root: str, document: Json) -> None:
    """Bring the values of a config or summary up to date; few change at a time."""
    simple = islice(_simple(document), _MAX_VALUES)
    fresh = {f"{root}.{name}": _value_row(value) for name, value in simple}
    rows = tx.run(_STORED, {"run_id": run_id, "keys": f"{root}.%"}).all()
    place = {"run_seq": rows[0].seq, "project_number": rows[0].project_number}
    stored = {row.key: {kind: getattr(row, kind) for kind in _VALUE_KINDS} for row in rows}
    gone = [key for key in stored if key is not None and key not in fresh]
    for start in range(0, len(gone), _IDS):
        some = run_values.c.key.in_(gone[start : start + _IDS])
        tx.run(delete(run_values).where(run_values.c.run_seq == place["run_seq"], some))
    changed = [(key, value) for key, value in fresh.items() if stored.get(key) != value]
    tx.insert_or_replace(run_values, [{"key": key, **place, **value} for key, value in changed])


def _value_row(value: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_VALUE_KINDS)
    kind = "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
    return row | {kind: float(value) if kind == "number" else value}


def end_silent(tx: Tx, before: float) -> int:
    """Running runs without a write since then have crashed, preempting ones are preempted."""
    ended = 0
    for state, following in (("running", "crashed"), ("preempting", "preempted")):
        silent = (text(ALIVE_ONLY), runs.c.state == state, runs.c.heartbeat_at < before)
        values = {"state": following, "ended_at": runs.c.heartbeat_at}
        ended += tx.changed(update(runs).where(*silent).values(**values))
    return ended


def extend_all(tx: Tx) -> None:
    """Count all running runs as alive now: they could not write while the server was away."""
    tx.run(update(runs).where(text(ALIVE_ONLY)).values(heartbeat_at=tx.now))


def delete_run(tx: Tx, run_id: str) -> None:
    """Remove a run."""
    tx.run(delete(runs).where(runs.c.id == run_id))


def page(
    tx: Tx,
    entity: str,
    project: str,
    *,
    filters: Any,
    order: str,
    after: int | None,
    limit: int,
) -> tuple[list[tuple[int, RunRecord]], int]:
    """Runs with the cursors that follow them, and how many there are in all.

    Cursors are sequence numbers in the order of creation, and counts in other orders.
    """
    compiler = RunFilter(entity, project)
    where = (runs.c.entity == entity, runs.c.project == project, compiler.where(filters))
    total = tx.run(select(func.count()).select_from(runs).where(*where)).scalar_one()
    query = _WITH_PROJECT.where(*where)
    if order.lstrip("+-") in _CREATION:
        rising = not order.startswith("-")
        query = query.order_by(runs.c.seq.asc() if rising else runs.c.seq.desc())
        if after is not None:
            query = query.where(runs.c.seq > after if rising else runs.c.seq < after)
        return [(row.seq, _record(row)) for row in tx.page(query, limit, _DOCUMENTS)], total
    falling, skipped = order.startswith("-"), after or 0
    rows: Sequence[AnyRow]
    match compiler.order(order):
        case Value() as value:
            rows = _by_value(tx, query, value, falling=falling, skipped=skipped, limit=limit)
        case column:
            query = query.order_by(*column.terms(falling=falling)).offset(skipped)
            rows = tx.page(query, limit, _DOCUMENTS)
    return [(number, _record(row)) for number, row in enumerate(rows, skipped + 1)], total


def _by_value(
    tx: Tx, query: Select[Any], value: Value, *, falling: bool, skipped: int, limit: int
) -> list[AnyRow]:
    """Runs by a value of config or summary: those with numbers, with texts, without either.

    Each part is a query of its own, which an index serves; one over all would sort every run.
    """
    found: list[AnyRow] = []
    kinds = (run_values.c.number, run_values.c.text)
    for kind in kinds:
        on = and_(run_values.c.run_seq == runs.c.seq, *value.rows, kind.is_not(None))
        part = query.join(run_values, on)
        terms = (kind, run_values.c.run_seq)
        ordered = part.order_by(*(term.desc() if falling else term.asc() for term in terms))
        found += tx.page(ordered.offset(skipped), limit - len(found), _DOCUMENTS)
        if len(found) == limit:
            return found
        if skipped:
            counted = part.with_only_columns(func.count(), maintain_column_froms=True)
            skipped = max(0, skipped - int(tx.run(counted).scalar_one()))
    having = select(run_values.c.run_seq).where(*value.rows, or_(*(k.is_not(None) for k in kinds)))
    rest = query.where(runs.c.seq.not_in(having)).order_by(runs.c.seq.desc()).offset(skipped)
    return [*found, *tx.page(rest, limit - len(found), _DOCUMENTS)]


def count(tx: Tx, entity: str, project: str, filters: Any) -> int:
    """How many runs of a project a filter finds."""
    found = RunFilter(entity, project).where(filters)
    where = (runs.c.entity == entity, runs.c.project == project, found)
    return int(tx.run(select(func.count()).select_from(runs).where(*where)).scalar_one())


def simple_value(document: Json, path: str) -> Any:
    """A number, text or truth value of a summary by its dotted path; `None` without one."""
    return dict(_simple(document)).get(path)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Of the numbers that runs have of one value."""

    count: int
    mean: float
    lowest: float
    highest: float


def aggregates(
    tx: Tx, entity: str, project: str, filters: Any, keys: Sequence[str]
) -> dict[str, Aggregate]:
    """Of values such as `summary.loss` of the runs that a filter finds; none without numbers."""
    found = RunFilter(entity, project).where(filters)
    where = (runs.c.entity == entity, runs.c.project == project, found)
    number = run_values.c.number
    query = (
        select(
            run_values.c.key,
            func.count(number).label("count"),
            func.avg(number).label("mean"),
            func.min(number).label("lowest"),
            func.max(number).label("highest"),
        )
        .join(runs, runs.c.seq == run_values.c.run_seq)
        .where(*where, run_values.c.key.in_(keys), number.is_not(None))
        .group_by(run_values.c.key)
    )
    return {row.key: record_of(Aggregate, row) for row in tx.all(query)}


def config_values(config: Json) -> Json:
    """W&B's config without its `{"value": …}` around each value, and without `_wandb`."""
    return {
        key: one["value"] if isinstance(one, dict) and "value" in one else one
        for key, one in config.items()
        if key != "_wandb"
    }


def _simple(document: Json, prefix: str = "", level: int = 0) -> Iterator[tuple[str, Any]]:
    """Numbers, texts and truth values by dotted path, as strict JSON has them."""
    for key, value in document.items():
        name = f"{prefix}{key}".replace("\0", "").encode(errors="replace").decode()
        if len(name) > _MAX_VALUE or level > _MAX_LEVEL:
            continue
        if isinstance(value, dict):
            yield from _simple(value, f"{name}.", level + 1)
        elif isinstance(value, str):
            clean = value[:_MAX_VALUE].replace("\0", "\ufffd")
            yield name, clean.encode(errors="replace").decode()
        elif isinstance(value, bool):
            yield name, value
        elif isinstance(value, int | float) and abs(value) < _MAX_NUMBER:
            yield (
                name,
                value
                if isinstance(value, float)
                else float(value)
                if abs(value) > _EXACT
                else value,
            )


def _record(row: AnyRow) -> RunRecord:
    return record_of(
        RunRecord,
        row,
        tags=tuple(row.tags),
        group=row.group_name,
        commit=row.commit_hash,
        user=row.user_name,
    )
