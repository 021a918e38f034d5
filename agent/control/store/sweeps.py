"""Sweeps, and the processes of their users that ask for runs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import and_, func, insert, or_, select, update

from agent.control.store.run_tables import runs, sweep_agents, sweeps
from agent.control.store.tables import record_of
from agent.control.store.tx import AnyRow, Tx
from agent.model.spec import Json


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """A sweep with what its runs say of it."""

    id: str
    entity: str
    project: str
    name: str
    display_name: str | None
    description: str | None
    #: YAML, as its user wrote it.
    config_text: str
    config: Json
    state: str
    #: Combinations of the grid, and how many of them were given out.
    combinations: int
    given: int
    created_at: datetime
    updated_at: datetime
    run_count: int


@dataclass(frozen=True, slots=True)
class SweepAgentRecord:
    """A process that runs what a sweep gives it."""

    id: str
    sweep_id: str
    host: str
    #: The run that it was given last, and how often until it was heard to have it.
    run_name: str | None
    offers: int
    heartbeat_at: datetime


#: States in which a run's process is alive.
_ALIVE: Final = ("running", "preempting")
_OF_SWEEP: Final = and_(
    runs.c.entity == sweeps.c.entity,
    runs.c.project == sweeps.c.project,
    runs.c.sweep == sweeps.c.name,
)
_COUNT: Final = select(func.count()).where(_OF_SWEEP).correlate(sweeps).scalar_subquery()
_SWEEPS: Final = select(sweeps, _COUNT.label("run_count"))


def insert_sweep(tx: Tx, values: dict[str, Any]) -> SweepRecord:
    """A new sweep."""
    times = {"created_at": tx.now, "updated_at": tx.now, "given": 0}
    tx.run(insert(sweeps).values(**times, **values))
    return record_of(SweepRecord, tx.require(_SWEEPS.where(sweeps.c.id == values["id"])))


def change(tx: Tx, sweep_id: str, values: dict[str, Any]) -> SweepRecord:
    """Change columns; returns the sweep as it is then."""
    tx.run(update(sweeps).where(sweeps.c.id == sweep_id).values(updated_at=tx.now, **values))
    return record_of(SweepRecord, tx.require(_SWEEPS.where(sweeps.c.id == sweep_id)))


def lock(tx: Tx, sweep_id: str) -> SweepRecord | None:
    """A sweep by id; other writers of it wait until the transaction ends."""
    if tx.one(select(sweeps.c.id).where(sweeps.c.id == sweep_id).with_for_update()) is None:
        return None
    return record_of(SweepRecord, tx.require(_SWEEPS.where(sweeps.c.id == sweep_id)))


def by_name(tx: Tx, entity: str, project: str, name: str) -> SweepRecord | None:
    """A sweep of a project."""
    where = (sweeps.c.entity == entity, sweeps.c.project == project, sweeps.c.name == name)
    row = tx.one(_SWEEPS.where(*where))
    return record_of(SweepRecord, row) if row else None


def page(
    tx: Tx, entity: str, project: str, after: int | None, limit: int
) -> tuple[list[tuple[int, SweepRecord]], int]:
    """Sweeps of a project with their numbers, the newest first, and how many there are in all."""
    where = [sweeps.c.entity == entity, sweeps.c.project == project]
    total = int(tx.run(select(func.count()).select_from(sweeps).where(*where)).scalar_one())
    if after is not None:
        where.append(sweeps.c.seq < after)
    rows = tx.all(_SWEEPS.where(*where).order_by(sweeps.c.seq.desc()).limit(limit))
    return [(row.seq, record_of(SweepRecord, row)) for row in rows], total


def has_live_run(tx: Tx, sweep: SweepRecord, given_since: float) -> bool:
    """Whether a run of the sweep runs, or was given to an agent since then and may begin."""
    begins = and_(runs.c.state == "pending", runs.c.heartbeat_at >= given_since)
    where = (
        runs.c.entity == sweep.entity,
        runs.c.project == sweep.project,
        runs.c.sweep == sweep.name,
        or_(runs.c.state.in_(_ALIVE), begins),
    )
    return tx.one(select(runs.c.id).where(*where).limit(1)) is not None


def insert_agent(tx: Tx, agent_id: str, sweep_id: str, host: str) -> None:
    """A new agent of a sweep."""
    values = {"id": agent_id, "sweep_id": sweep_id, "host": host, "heartbeat_at": tx.now}
    tx.run(insert(sweep_agents).values(offers=0, **values))


def lock_agent(tx: Tx, agent_id: str) -> SweepAgentRecord | None:
    """An agent by id; another heartbeat of it waits until the transaction ends."""
    query = select(sweep_agents).where(sweep_agents.c.id == agent_id).with_for_update()
    row: AnyRow | None = tx.one(query)
    return record_of(SweepAgentRecord, row) if row else None


def change_agent(tx: Tx, agent_id: str, values: dict[str, Any]) -> None:
    """Note a heartbeat of an agent, and what it was given."""
    found = update(sweep_agents).where(sweep_agents.c.id == agent_id)
    tx.run(found.values(heartbeat_at=tx.now, **values))
