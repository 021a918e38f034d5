"""Runs and the items that launched them, inside transactions.

Our own agents say how their items fare. Of an item that W&B's agent acknowledged only its
run speaks: its first write means that the job started, its end that the item is over.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from agent.control.auth.policy import Principal
from agent.control.services.context import Context
from agent.control.services.transitions import end, move
from agent.control.store import items, runs
from agent.control.store.ids import new_id, new_run_name
from agent.control.store.records import AgentProtocol, RunRecord
from agent.control.store.tx import AnyRow, Tx
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError
from agent.model.phase import MAY_RUN, Phase
from agent.model.spec import Json

STATES: Final = (
    "pending",
    "running",
    "finished",
    "failed",
    "crashed",
    "killed",
    "preempting",
    "preempted",
)
#: States after which nothing comes; what they mean as an exit code.
_OVER: Final = {"finished": 0, "failed": 1, "crashed": 1, "killed": 1}
_NAME: Final = re.compile(r"[^/\\#?%:]{1,128}")
#: Fields whose columns have other names, since SQL has words of its own.
_COLUMNS: Final = {"group": "group_name", "commit": "commit_hash"}


@dataclass(frozen=True, slots=True)
class RunChange:
    """Fields of `upsertBucket`; `None` leaves a field as it is."""

    display_name: str | None = None
    description: str | None = None
    notes: str | None = None
    tags: tuple[str, ...] | None = None
    group: str | None = None
    job_type: str | None = None
    commit: str | None = None
    #: The complete config: replaces the old one.
    config: Json | None = None
    summary: Json | None = None
    state: str | None = None
    host: str | None = None
    program: str | None = None
    sweep: str | None = None


def check_state(state: str | None) -> None:
    """A state that clients know.

    Raises:
        InvalidInputError
    """
    if state is not None and state not in STATES:
        raise InvalidInputError(f"A run cannot be '{state}'.", hint=f"Use {', '.join(STATES)}.")


def check_run_name(name: str | None) -> str:
    """The id of a run that is to be made; one of our own for `None`.

    Raises:
        InvalidInputError
    """
    if not name:
        return new_run_name()
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"'{name}' cannot be the id of a run.",
            hint="1 to 128 characters without `/ \\ # ? % :`.",
        )
    return name


def make_run(tx: Tx, principal: Principal, entity: str, project: str, name: str) -> RunRecord:
    """A new run, tied to the item that launched it."""
    item = items.by_run(tx, entity, project, name)
    values: dict[str, Any] = {
        "id": new_id(),
        "entity": entity,
        "project": project,
        "name": name,
        "display_name": name,
        "tags": [],
        "config": {},
        "summary": {},
        "state": "running",
        "stopped": item is not None and item.stop_requested,
        "user_name": principal.name if principal.user_id else None,
        "item_id": None if item is None else item.id,
    }
    runs.insert(tx, values)
    return runs.require(tx, entity, project, name)


def change_run(tx: Tx, context: Context, run: RunRecord, change: RunChange) -> RunRecord:
    """Write what was given; `None` leaves a field as it is."""
    given = {key: getattr(change, key) for key in RunChange.__slots__}
    values = {_COLUMNS.get(key, key): one for key, one in given.items() if one is not None}
    runs.change(tx, run.id, values)
    _has_started(tx, context, run, change.state)
    if change.state in _OVER:
        end_of_run(tx, run, _OVER[change.state])
    return runs.require(tx, run.entity, run.project, run.name)


def end_of_run(tx: Tx, run: RunRecord, exit_code: int) -> None:
    """The run of an item of W&B's dialect is over, and with it the item."""
    item = _launched(tx, run)
    if item is None:
        return
    text = f"the run ended with exit code {exit_code}"
    if item.stop_requested:
        end(tx, item, Phase.STOPPED, Cause.STOPPED_BY_USER, text, exit_code=exit_code)
    elif exit_code == 0:
        end(tx, item, Phase.SUCCEEDED, Cause.SUCCEEDED, text, exit_code=0)
    else:
        end(tx, item, Phase.FAILED, Cause.RUN_EXIT_CODE, text, exit_code=exit_code)


def _has_started(tx: Tx, context: Context, run: RunRecord, state: str | None) -> None:
    """A write of the run: the job runs, whatever became of its agent."""
    item = _launched(tx, run)
    if item is None or state == "pending":
        return
    fresh: dict[str, Any] = {"lost_contact_at": None}
    if item.lease_expires_at is not None:
        fresh["lease_expires_at"] = tx.now + context.config.agent_timeout
    if Phase(item.phase) is Phase.PERMITTED:
        changes = {**fresh, "started_at": tx.now}
        move(tx, item, Phase.STARTED, text="its run has begun", changes=changes)
    else:
        items.change(tx, item, fresh)


def _launched(tx: Tx, run: RunRecord) -> AnyRow | None:
    """The item, locked, that launched a run through W&B's agent and may be running."""
    item = None if run.item_id is None else items.row(tx, run.item_id, lock=True)
    if item is None or item.protocol != AgentProtocol.WANDB or item.run_name != run.name:
        return None
    return item if Phase(item.phase) in MAY_RUN else None
