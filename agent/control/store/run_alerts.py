"""Alerts that runs sent with `run.alert`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select

from agent.control.store.run_tables import run_alerts
from agent.control.store.tables import record_of
from agent.control.store.tx import Tx


@dataclass(frozen=True, slots=True)
class RunAlert:
    """One alert."""

    title: str
    text: str
    #: INFO, WARN or ERROR.
    severity: str
    sent_at: datetime


def add(tx: Tx, run_id: str, title: str, text: str, severity: str) -> None:
    """Store an alert."""
    row = {"run_id": run_id, "title": title, "text": text, "severity": severity, "sent_at": tx.now}
    tx.run(insert(run_alerts), row)


def count(tx: Tx, run_id: str) -> int:
    """How many alerts of a run are stored."""
    return int(tx.run(select(func.count()).where(run_alerts.c.run_id == run_id)).scalar_one())


def last_sent(tx: Tx, run_id: str, title: str) -> float | None:
    """When the run sent an alert of that title last."""
    where = (run_alerts.c.run_id == run_id, run_alerts.c.title == title)
    found: float | None = tx.run(select(func.max(run_alerts.c.sent_at)).where(*where)).scalar_one()
    return found


def newest(tx: Tx, run_id: str, limit: int) -> Sequence[RunAlert]:
    """The newest alerts of a run, the newest first."""
    query = select(run_alerts).where(run_alerts.c.run_id == run_id)
    rows = tx.all(query.order_by(run_alerts.c.seq.desc()).limit(limit))
    return [record_of(RunAlert, row) for row in rows]
