"""What a write to a run changes elsewhere: its item, and whether the run is to be made into a job.

Our own agents report how their items proceed. An item that W&B's agent acknowledged is only
known by its run: the run's first write means that the job has started, its end that the item
is over.
"""

from typing import Any

from agent.control.services.notifications import RUN_JOBS
from agent.control.services.transitions import end, move
from agent.control.store import items, run_jobs
from agent.control.store.agents import AgentProtocol
from agent.control.store.runs import RunPlace
from agent.control.store.tx import AnyRow, Tx
from agent.model.cause import Cause
from agent.model.phase import MAY_RUN, Phase


def mark_started(tx: Tx, run: RunPlace, agent_timeout: float) -> None:
    """Note that the job of an item of W&B's agent runs: its run was written to.

    That agent may send no heartbeats. No effect on items of our own agents.
    """
    item = _running_wandb_item(tx, run)
    if item is None:
        return
    fresh: dict[str, Any] = {"lost_contact_at": None}
    if item.lease_expires_at is not None:
        fresh["lease_expires_at"] = tx.now + agent_timeout
    if Phase(item.phase) is Phase.PERMITTED:
        changes = {**fresh, "started_at": tx.now}
        move(tx, item, Phase.STARTED, text="its run has begun", changes=changes)
    else:
        items.change(tx, item, fresh)


def mark_job_due(tx: Tx, run_id: str) -> None:
    """The process of a run has ended, with everything uploaded: its job is to be made."""
    run_jobs.mark_due(tx, run_id)
    tx.notify(RUN_JOBS)


def end_item(tx: Tx, run: RunPlace, exit_code: int) -> None:
    """The run of an item that W&B's agent took is over, and with it the item."""
    item = _running_wandb_item(tx, run)
    if item is None:
        return
    text = f"the run ended with exit code {exit_code}"
    if item.stop_requested:
        end(tx, item, Phase.STOPPED, Cause.STOPPED_BY_USER, text, exit_code=exit_code)
    elif exit_code == 0:
        end(tx, item, Phase.SUCCEEDED, Cause.SUCCEEDED, text, exit_code=0)
    else:
        end(tx, item, Phase.FAILED, Cause.RUN_EXIT_CODE, text, exit_code=exit_code)


def _running_wandb_item(tx: Tx, run: RunPlace) -> AnyRow | None:
    """The item, locked, that launched a run through W&B's agent and may be running."""
    item = None if run.item_id is None else items.row(tx, run.item_id, lock=True)
    if item is None or item.protocol != AgentProtocol.WANDB or item.run_name != run.name:
        return None
    return item if Phase(item.phase) in MAY_RUN else None
