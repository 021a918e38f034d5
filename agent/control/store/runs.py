"""W&B runs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, delete, func, select, update

from agent.control.store.tables import projects, record_of, runs
from agent.control.store.tx import AnyRow, Tx
from agent.model.spec import Json

#: Ids in one query.
_IDS: Final = 500


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A W&B run, as far as launching needs it."""

    id: str
    entity: str
    project: str
    project_number: int
    name: str
    display_name: str | None
    description: str | None
    notes: str | None
    tags: tuple[str, ...]
    group: str | None
    job_type: str | None
    commit: str | None
    config: Json
    summary: Json
    state: str
    stopped: bool
    exit_code: int | None
    host: str | None
    program: str | None
    sweep: str | None
    user: str | None
    #: The item that launched it, if one did.
    item_id: str | None
    created_at: datetime
    heartbeat_at: datetime


_WITH_PROJECT: Final = select(runs, projects.c.number.label("project_number")).join(
    projects, (projects.c.entity == runs.c.entity) & (projects.c.name == runs.c.project)
)


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


def require(tx: Tx, run_id: str) -> RunRecord:
    """As `by_id`, of a run that exists."""
    return _record(tx.require(_WITH_PROJECT.where(runs.c.id == run_id)))


def insert(tx: Tx, values: dict[str, Any]) -> RunRecord:
    """A new run, or the one of that name that another client inserted meanwhile."""
    tx.insert_new(runs, {"created_at": tx.now, "heartbeat_at": tx.now, **values})
    where = [runs.c[key] == values[key] for key in ("entity", "project", "name")]
    return _record(tx.require(_WITH_PROJECT.where(*where)))


def change(tx: Tx, run_id: str, values: dict[str, Any]) -> None:
    """Change columns and the time of the last heartbeat."""
    tx.run(update(runs).where(runs.c.id == run_id).values(heartbeat_at=tx.now, **values))


def delete_run(tx: Tx, run_id: str) -> None:
    """Remove a run."""
    tx.run(delete(runs).where(runs.c.id == run_id))


def page(
    tx: Tx,
    entity: str,
    project: str,
    *,
    states: Collection[str] | None,
    names: Collection[str] | None,
    oldest_first: bool,
    after: int | None,
    limit: int,
) -> tuple[list[tuple[int, RunRecord]], int]:
    """Runs with their sequence numbers, which are the cursors of pages, and the total."""

    def narrowed(query: Select[Any]) -> Select[Any]:
        query = query.where(runs.c.entity == entity, runs.c.project == project)
        if states is not None:
            query = query.where(runs.c.state.in_(sorted(states)))
        if names is not None:
            query = query.where(runs.c.name.in_(sorted(names)))
        return query

    total = tx.run(narrowed(select(func.count()).select_from(runs))).scalar_one()
    order = runs.c.seq.asc() if oldest_first else runs.c.seq.desc()
    query = narrowed(_WITH_PROJECT).order_by(order)
    if after is not None:
        query = query.where(runs.c.seq > after if oldest_first else runs.c.seq < after)
    rows = tx.page(query, limit, (runs.c.config, runs.c.summary))
    return [(row.seq, _record(row)) for row in rows], total


def _record(row: AnyRow) -> RunRecord:
    return record_of(
        RunRecord,
        row,
        tags=tuple(row.tags),
        group=row.group_name,
        commit=row.commit_hash,
        user=row.user_name,
    )
