"""What the holder of a lease may do with it, each in one transaction.

A write counts only if item, attempt, epoch and agent are those of the lease and the item is
still held: `held` looks under a lock, and everything below works on what it found.
"""

import json
from typing import Any, Final

from agent.control.services.transitions import end, move, notify_watchers, requeue
from agent.control.store import history, items
from agent.control.store.tx import AnyRow, Tx
from agent.model.cause import Cause
from agent.model.errors import ConflictError, InvalidInputError
from agent.model.phase import HELD, MAY_RUN, TERMINAL, UNSTARTED_HELD, Phase
from agent.model.protocol import LeaseStatus
from agent.model.spec import Json
from agent.model.work import Lease

_MAX_FACTS: Final = 64 * 1024
_MAX_TEXT: Final = 4_000
_MAX_ACTIVITY: Final = 200
_MAX_WARNINGS: Final = 100


def held(tx: Tx, agent_id: str, lease: Lease) -> AnyRow | None:
    """The item of a lease, locked; `None` is fenced."""
    row = items.row(tx, lease.item_id, lock=True)
    return row if row is not None and is_holder(row, agent_id, lease) else None


def is_holder(row: AnyRow, agent_id: str, lease: Lease) -> bool:
    """Whether the lease is the one under which the item is held."""
    named = (row.agent_id, row.attempt, row.epoch)
    return named == (agent_id, lease.attempt, lease.epoch) and Phase(row.phase) in HELD


def permit(tx: Tx, agent_id: str, lease: Lease) -> LeaseStatus:
    """See `Leases.permit`."""
    row = held(tx, agent_id, lease)
    if row is None:
        return LeaseStatus.FENCED
    if row.stop_requested:
        return LeaseStatus.STOP
    phase = Phase(row.phase)
    if phase is Phase.STARTED:
        raise ConflictError(
            f"Attempt {row.attempt} of item {row.id} has been started already.",
            hint="Look at what runs before anything is started.",
        )
    if phase is not Phase.PERMITTED:
        through = Phase.PREPARING if phase is Phase.LEASED else None
        changes = {"lease_losses": 0}
        move(tx, row, Phase.PERMITTED, through=through, actor=row.agent_name, changes=changes)
    return LeaseStatus.HELD


def advance(
    tx: Tx,
    agent_id: str,
    lease: Lease,
    *,
    phase: Phase | None,
    activity: str | None,
    facts: Json | None,
    warning: str | None,
) -> LeaseStatus:
    """See `Leases.advance`."""
    if phase not in {None, Phase.PREPARING, Phase.STARTED}:
        raise InvalidInputError(f"An item cannot be advanced to {phase}.")
    row = held(tx, agent_id, lease)
    if row is None:
        return LeaseStatus.FENCED
    changes = _progress(row, activity, facts, warning)
    if phase is None or _is_behind(Phase(row.phase), phase):
        _write(tx, row, changes)
    else:
        started = {"started_at": tx.now} if phase is Phase.STARTED else {}
        move(tx, row, phase, actor=row.agent_name, changes={**changes, **started})
    return LeaseStatus.STOP if row.stop_requested else LeaseStatus.HELD


def finish(
    tx: Tx,
    agent_id: str,
    lease: Lease,
    *,
    phase: Phase,
    cause: Cause,
    message: str,
    exit_code: int | None,
    facts: Json | None,
) -> LeaseStatus:
    """See `Leases.finish`."""
    if phase not in TERMINAL:
        raise InvalidInputError(f"{phase} is no outcome.")
    row = held(tx, agent_id, lease)
    if row is None:
        replayed = _is_replay(tx, agent_id, lease, phase, cause, exit_code)
        return LeaseStatus.HELD if replayed else LeaseStatus.FENCED
    end(
        tx,
        row,
        phase,
        cause,
        message[:_MAX_TEXT],
        exit_code=exit_code,
        actor=row.agent_name,
        changes=_progress(row, None, facts, None),
    )
    return LeaseStatus.HELD


def release(tx: Tx, agent_id: str, lease: Lease, reason: str | None) -> LeaseStatus:
    """See `Leases.release`."""
    row = held(tx, agent_id, lease)
    if row is None:
        return LeaseStatus.HELD if _was_released(tx, lease) else LeaseStatus.FENCED
    if Phase(row.phase) not in UNSTARTED_HELD:
        raise ConflictError(
            f"Item {row.id} has a start permit: it may be running and cannot be handed back."
        )
    requeue(tx, row, reason or "handed back", actor=row.agent_name, losses=row.lease_losses)
    return LeaseStatus.HELD


def add_warning(row: AnyRow, warning: str) -> list[str]:
    """The item's warnings with one more; repeated ones and floods add nothing."""
    text = warning[:_MAX_TEXT]
    if text in row.warnings or len(row.warnings) >= _MAX_WARNINGS:
        return list(row.warnings)
    return [*row.warnings, text]


def _is_behind(now: Phase, asked: Phase) -> bool:
    """A late repetition of a step that was made already."""
    return now is asked or (asked is Phase.PREPARING and now in MAY_RUN)


def _progress(
    row: AnyRow, activity: str | None, facts: Json | None, warning: str | None
) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if activity is not None:
        changes["activity"] = activity[:_MAX_ACTIVITY]
    if facts:
        merged = {**row.facts, **facts}
        size = len(json.dumps(merged))
        if size > _MAX_FACTS:
            raise InvalidInputError(f"The facts of item {row.id} would take {size} bytes.")
        changes["facts"] = merged
    if warning:
        changes["warnings"] = add_warning(row, warning)
    return changes


def _write(tx: Tx, row: AnyRow, changes: dict[str, Any]) -> None:
    if changes:
        items.change(tx, row, {**changes, "updated_at": tx.now})
        notify_watchers(tx, row)


def _is_replay(
    tx: Tx, agent_id: str, lease: Lease, phase: Phase, cause: Cause, exit_code: int | None
) -> bool:
    """Whether this very outcome was stored before, by the same holder."""
    attempt = history.attempt(tx, lease.item_id, lease.attempt)
    if attempt is None:
        return False
    stored = (attempt.agent_id, attempt.epoch, attempt.phase, attempt.cause, attempt.exit_code)
    return bool(stored == (agent_id, lease.epoch, phase.value, cause.value, exit_code))


def _was_released(tx: Tx, lease: Lease) -> bool:
    """Whether nobody has held the item since this lease."""
    row = items.row(tx, lease.item_id)
    if row is None:
        return False
    return (row.attempt, row.epoch, row.phase) == (
        lease.attempt,
        lease.epoch,
        Phase.QUEUED.value,
    )
