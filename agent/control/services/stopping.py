"""A stop request: at once where nobody holds the item, else through its holder."""

from agent.control.services.notifications import topic_agent
from agent.control.services.transitions import end, remark
from agent.control.store import items, runs
from agent.control.store.records import AgentProtocol
from agent.control.store.tx import AnyRow, Tx
from agent.model.cause import Cause
from agent.model.phase import TERMINAL, Phase


def request_stop(tx: Tx, seen: AnyRow, actor: str) -> None:
    """Stop a locked item, or ask for it; what is over or asked already stays as it is."""
    phase = Phase(seen.phase)
    if phase in TERMINAL or seen.stop_requested:
        return
    if phase is Phase.QUEUED:
        message = f"{actor} stopped it before it started"
        end(tx, seen, Phase.STOPPED, Cause.STOPPED_BY_USER, message, actor=actor)
        return
    remark(tx, seen, "stop requested", actor=actor, stop_requested=True)
    if seen.agent_id is not None:
        tx.notify(topic_agent(seen.agent_id))
    if seen.protocol == AgentProtocol.WANDB and seen.run_name is not None:
        # W&B's agents ask after the run, never after the item.
        _stop_run(tx, items.require(tx, seen.id))


def _stop_run(tx: Tx, item: AnyRow) -> None:
    run = runs.by_name(tx, item.run_entity, item.project, item.run_name)
    if run is not None:
        runs.change(tx, run.id, {"stopped": True})
