"""The one place where an item's phase changes.

Each step is checked against `agent.model.phase.TRANSITIONS`, guarded by the row that was read
(attempt, epoch, phase), copied to its attempt, added to its history, and subscribers are
notified. All functions take the item's row as `row`; the transaction has locked it.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from agent.control.services.notifications import (
    topic_agent,
    topic_entity,
    topic_item,
    topic_log,
    topic_queue,
)
from agent.control.services.retries import may_retry, retry_delay
from agent.control.store import history, items, runs
from agent.control.store.agents import AgentProtocol
from agent.control.store.tx import AnyRow, Tx
from agent.model.cause import Cause
from agent.model.errors import ConflictError
from agent.model.phase import TERMINAL, Phase, may_follow

#: Leases lost in a row before a start, after which an item is quarantined.
_MAX_LEASE_LOSSES: Final = 3
#: Columns that an attempt keeps as well.
_ATTEMPT_COLUMNS: Final = frozenset(
    {"agent_id", "agent_name", "cause", "message", "exit_code", "started_at", "finished_at"}
)
_NOT_HELD: Final[Mapping[str, Any]] = {
    "agent_id": None,
    "agent_name": None,
    "protocol": None,
    "request_id": None,
    "lease_expires_at": None,
    "allocation": None,
    "activity": None,
    "lost_contact_at": None,
}
_NEW_ATTEMPT: Final[Mapping[str, Any]] = {
    **_NOT_HELD,
    "stop_requested": False,
    "cause": None,
    "message": None,
    "exit_code": None,
    "started_at": None,
    "finished_at": None,
}


def move(
    tx: Tx,
    row: AnyRow,
    after: Phase,
    *,
    through: Phase | None = None,
    actor: str | None = None,
    text: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Change the phase of an item that this transaction has locked.

    `through`: a phase that is passed on the way. Both steps are checked and get an event; the
    item's row is written once.

    Raises:
        ConflictError: the transition table does not allow it, or the item was not locked and
            changed, which would be a bug.
    """
    before = Phase(row.phase)
    for earlier, later in pairwise((before, through, after) if through else (before, after)):
        if not may_follow(earlier, later):
            message = f"Item {row.id} is {earlier.word}: it cannot become {later.word}."
            raise ConflictError(message)
    whole = {"phase": after.value, "updated_at": tx.now, **(changes or {})}
    if not items.change(tx, row, whole):
        raise ConflictError(f"Item {row.id} was changed meanwhile.")
    attempt = whole.get("attempt", row.attempt)
    epoch = whole.get("epoch", row.epoch)
    kept = {key: value for key, value in whole.items() if key in _ATTEMPT_COLUMNS}
    if after is Phase.LEASED:
        kept["token_epoch"] = epoch  # the run token names this lease; adoptions keep it
    history.change_attempt(tx, row.id, attempt, {"phase": after.value, "epoch": epoch, **kept})
    step = {"item_id": row.id, "attempt": attempt, "epoch": epoch, "actor": actor}
    if through is not None:
        history.add_event(tx, {**step, "phase": through.value, "text": None})
    history.add_event(tx, {**step, "phase": after.value, "text": text})
    notify_watchers(tx, row)
    if after is Phase.QUEUED and row.queue_id is not None:
        tx.notify(topic_queue(row.queue_id))
    if after in TERMINAL:
        tx.notify(topic_log(row.id))


def add_event(tx: Tx, row: AnyRow, text: str, *, actor: str | None = None, **changes: Any) -> None:
    """Add an event to the history, and change columns, without a change of phase."""
    items.change(tx, row, {"updated_at": tx.now, **changes})
    seen = {"attempt": row.attempt, "epoch": row.epoch, "phase": row.phase}
    history.add_event(tx, {"item_id": row.id, **seen, "actor": actor, "text": text})
    notify_watchers(tx, row)


def notify_watchers(tx: Tx, row: AnyRow) -> None:
    """Notify subscribers of the item and of its entity."""
    tx.notify(topic_item(row.id), topic_entity(row.entity))


def requeue(
    tx: Tx,
    row: AnyRow,
    text: str,
    *,
    actor: str | None = None,
    losses: int = 0,
    not_before: float | None = None,
) -> None:
    """Put an item that has not started back on its queue, in its old place.

    It cannot be claimed before the time `not_before`. It is stopped instead if a stop was
    requested or its queue was deleted.
    """
    if row.stop_requested or row.queue_id is None:
        end(tx, row, Phase.STOPPED, Cause.STOPPED_BY_USER, "stopped before it started")
        return
    changes = {**_NOT_HELD, "lease_losses": losses, "not_before": not_before}
    move(tx, row, Phase.QUEUED, actor=actor, text=text, changes=changes)


def quarantine_or_count_loss(tx: Tx, row: AnyRow) -> int | None:
    """Quarantine an item that has lost its third lease in a row before a start.

    Returns the leases lost in a row, with this one; `None`: the item is quarantined. An item that
    is to be stopped is not quarantined, and leases of W&B's agents do not count: those let them
    expire on purpose.
    """
    losses: int = row.lease_losses + (row.protocol != AgentProtocol.WANDB)
    if losses < _MAX_LEASE_LOSSES or row.stop_requested:
        return losses
    text = f"{losses} leases in a row were lost before the start; {row.agent_name} held the last"
    end(tx, row, Phase.ERRORED, Cause.QUARANTINED, text)
    return None


def end(
    tx: Tx,
    row: AnyRow,
    phase: Phase,
    cause: Cause,
    message: str,
    *,
    exit_code: int | None = None,
    actor: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Store an attempt's outcome, and open another attempt if `retries.may_retry` allows it."""
    outcome = {
        "cause": cause.value,
        "message": message,
        "exit_code": exit_code,
        "finished_at": tx.now,
        "lease_expires_at": None,
        "lost_contact_at": None,
        "activity": None,
    }
    move(tx, row, phase, actor=actor, text=message, changes={**(changes or {}), **outcome})
    if may_retry(row, phase, cause):
        _retry(tx, items.require(tx, row.id), phase)


def _retry(tx: Tx, row: AnyRow, phase: Phase) -> None:
    """Open an attempt by the item's `retries` or `on_lost`, after the delay of `retry_delay`."""
    number = row.retried + 1
    text = f"automatic retry {number}"
    delay = retry_delay(phase, number)
    if delay is None:
        reopen(tx, row, text, retried=number)
    else:
        reopen(tx, row, f"{text}, after {delay:g} s", retried=number, not_before=tx.now + delay)


def reopen(
    tx: Tx,
    row: AnyRow,
    text: str,
    *,
    retried: int = 0,
    not_before: float | None = None,
    actor: str | None = None,
) -> None:
    """Open a new attempt at the end of the queue, not claimable before that time."""
    number = row.attempt + 1
    history.open_attempt(tx, row.id, number)
    fresh = {
        "attempt": number,
        "enqueued_at": tx.now if not_before is None else not_before,
        "not_before": not_before,
        "lease_losses": 0,
        "retried": retried,
    }
    move(tx, row, Phase.QUEUED, actor=actor, text=text, changes={**_NEW_ATTEMPT, **fresh})


def request_stop(tx: Tx, row: AnyRow, actor: str) -> None:
    """End an item that is not leased; ask the agent that holds it to stop. Idempotent."""
    phase = Phase(row.phase)
    if phase in TERMINAL or row.stop_requested:
        return
    if phase is Phase.QUEUED:
        message = f"{actor} stopped it before it started"
        end(tx, row, Phase.STOPPED, Cause.STOPPED_BY_USER, message, actor=actor)
        return
    add_event(tx, row, "stop requested", actor=actor, stop_requested=True)
    if row.agent_id is not None:
        tx.notify(topic_agent(row.agent_id))
    if row.protocol == AgentProtocol.WANDB and row.run_name is not None:
        # W&B's agents poll the run's state, never the item's.
        item = items.require(tx, row.id)
        run = runs.by_name(tx, item.run_entity, item.project, item.run_name)
        if run is not None:
            runs.change(tx, run.id, {"stopped": True})
