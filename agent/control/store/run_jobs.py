"""What became of runs that have ended: their jobs."""

from dataclasses import dataclass

from sqlalchemy import select, text, update

from agent.control.store.run_tables import DUE_ONLY, run_jobs
from agent.control.store.tables import record_of
from agent.control.store.tx import Tx


@dataclass(frozen=True, slots=True)
class RunJobRecord:
    """The job of a run: still to be made, made, or not to be made."""

    #: How often the run has ended.
    ends: int
    due: bool
    artifact_id: str | None
    #: Why there is none.
    problem: str | None


def get(tx: Tx, run_id: str) -> RunJobRecord | None:
    """`None` for a run that has not ended by itself."""
    row = tx.one(select(run_jobs).where(run_jobs.c.run_id == run_id))
    return None if row is None else record_of(RunJobRecord, row)


def mark_due(tx: Tx, run_id: str) -> None:
    """The run has ended, perhaps again: its job is to be made."""
    if not tx.insert_new(run_jobs, {"run_id": run_id, "ends": 1, "due": True}):
        again = {"ends": run_jobs.c.ends + 1, "due": True}
        tx.run(update(run_jobs).where(run_jobs.c.run_id == run_id).values(**again))


def due(tx: Tx, limit: int) -> list[str]:
    """Ids of runs whose jobs are to be made."""
    query = select(run_jobs.c.run_id).where(text(DUE_ONLY)).limit(limit)
    return [row.run_id for row in tx.all(query)]


def record_result(
    tx: Tx, run_id: str, end: int, artifact_id: str | None, problem: str | None
) -> None:
    """Record what became of it, unless it has ended again meanwhile."""
    where = (run_jobs.c.run_id == run_id, run_jobs.c.ends == end)
    values = {"due": False, "artifact_id": artifact_id, "problem": problem}
    tx.run(update(run_jobs).where(*where).values(**values))
