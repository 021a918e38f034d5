"""Attempts and events: what happened to an item.

What is written is postponed (`Tx.later`), so each function that reads it calls `flush` first.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import and_, bindparam, insert, select, update

from agent.control.store.items import ItemRecord
from agent.control.store.prepared import Prepared
from agent.control.store.tables import attempts, events, items, record_of, to_datetime
from agent.control.store.tx import AnyRow, Tx
from agent.model.cause import Cause
from agent.model.phase import Phase

Channel = Literal["setup", "job"]


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try at an item."""

    item_id: str
    number: int
    phase: Phase
    agent_id: str | None
    agent_name: str | None
    cause: Cause | None
    message: str | None
    exit_code: int | None
    started_at: datetime | None
    finished_at: datetime | None
    setup_log_bytes: int
    job_log_bytes: int


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One step of an item's history, oldest first."""

    at: datetime
    phase: Phase
    attempt: int
    epoch: int
    #: Name of the user or agent that caused it; `None` for the control plane itself.
    actor: str | None
    text: str | None


_ATTEMPT: Final = Prepared(
    select(attempts).where(
        attempts.c.item_id == bindparam("item"), attempts.c.number == bindparam("nth")
    )
)
#: What is given besides item and number names the columns to set.
_CHANGE_ATTEMPT: Final = Prepared(
    update(attempts).where(
        attempts.c.item_id == bindparam("of_item"), attempts.c.number == bindparam("of_number")
    )
)
_NEW_ATTEMPT: Final = Prepared(insert(attempts))
_NEW_EVENT: Final = Prepared(insert(events))
_ATTEMPT_WITH_ITEM: Final = (
    select(items.c.entity, items.c.attempt.label("last"), attempts)
    .join_from(
        items,
        attempts,
        and_(attempts.c.item_id == items.c.id, attempts.c.number == bindparam("nth")),
        isouter=True,
    )
    .where(items.c.id == bindparam("item"))
)
_BY_TOKEN: Final = (
    select(
        attempts.c.item_id,
        attempts.c.number,
        attempts.c.token_epoch,
        attempts.c.finished_at,
        attempts.c.phase,
        items.c.author_id,
        items.c.run_spec,
        items.c.run_entity,
        items.c.project,
        items.c.run_name,
    )
    .join(items, items.c.id == attempts.c.item_id)
    .where(attempts.c.id == bindparam("attempt"))
)


def open_attempt(tx: Tx, item_id: str, number: int) -> None:
    """A new attempt, queued."""
    values = {
        "item_id": item_id,
        "number": number,
        "phase": Phase.QUEUED.value,
        "epoch": 0,
        "token_epoch": 0,
        "setup_log_bytes": 0,
        "job_log_bytes": 0,
    }
    tx.changed(_NEW_ATTEMPT, **values)


def change_attempt(tx: Tx, item_id: str, number: int, values: dict[str, Any]) -> None:
    """Change columns of an attempt."""
    row = ("attempt", item_id, number)
    tx.later(_CHANGE_ATTEMPT, row, of_item=item_id, of_number=number, **values)


def attempt(tx: Tx, item_id: str, number: int) -> AnyRow | None:
    """The bare row of an attempt."""
    tx.flush()
    return tx.one(_ATTEMPT, item=item_id, nth=number)


def attempt_with_item(tx: Tx, item_id: str, number: int) -> AnyRow | None:
    """An attempt with its item's `entity` and `last` attempt; `None` without that item.

    Where there is no such attempt, its `number` is `None`.
    """
    tx.flush()
    return tx.one(_ATTEMPT_WITH_ITEM, item=item_id, nth=number)


def attempt_by_token(tx: Tx, attempt_id: int) -> AnyRow | None:
    """What a run token is checked against: the attempt with its item's entity, project and run."""
    tx.flush()
    return tx.one(_BY_TOKEN, attempt=attempt_id)


def attempt_list(tx: Tx, item_id: str) -> tuple[AttemptRecord, ...]:
    """Attempts, first to last."""
    tx.flush()
    query = select(attempts).where(attempts.c.item_id == item_id).order_by(attempts.c.number)
    return tuple(
        record_of(
            AttemptRecord,
            row,
            phase=Phase(row.phase),
            cause=None if row.cause is None else Cause(row.cause),
        )
        for row in tx.all(query)
    )


def add_event(tx: Tx, values: dict[str, Any]) -> None:
    """Append to an item's history."""
    tx.later(_NEW_EVENT, ("events", values["item_id"]), at=tx.now, **values)


def event_list(tx: Tx, item_id: str) -> tuple[EventRecord, ...]:
    """The history, oldest first."""
    tx.flush()
    query = select(events).where(events.c.item_id == item_id).order_by(events.c.id)
    return tuple(
        record_of(EventRecord, row, at=to_datetime(row.at), phase=Phase(row.phase))
        for row in tx.all(query)
    )


def why_requeued(tx: Tx, item: ItemRecord) -> str | None:
    """Text of the event that put a leased item back on its queue; `None` if there is none."""
    if item.phase is not Phase.QUEUED or not item.epoch:
        return None
    tx.flush()
    where = (events.c.item_id == item.id, events.c.epoch == item.epoch)
    query = select(events.c.text).where(*where, events.c.phase == Phase.QUEUED.value)
    found = tx.one(query.order_by(events.c.id).limit(1))
    return None if found is None else found.text
