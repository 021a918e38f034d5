"""Pop, acknowledge and fail, each in one transaction.

W&B's dialect names neither agent nor epoch when it acknowledges, so an acknowledgement
counts only while the pop's lease lasts: popped by A, expired, popped by B, then A's late
acknowledgement arrives; B holds a fresh lease by then and one of the two starts, never both.
"""

from typing import Any, Final

from agent.control.services.context import Context
from agent.control.services.holding import add_warning
from agent.control.services.transitions import end, move, notify_watchers
from agent.control.store import items
from agent.control.store.records import AgentProtocol, PoppedItem
from agent.control.store.tx import AnyRow, Tx
from agent.model.cause import Cause
from agent.model.phase import HELD, MAY_RUN, Phase

_STAGES: Final = {"agent": Cause.INTERNAL, "build": Cause.BUILD_FAILED, "run": Cause.START_FAILED}


def pop(tx: Tx, context: Context, queue_id: str, agent: AnyRow | None) -> PoppedItem | None:
    """Lease the first item of a queue that is not paused."""
    item_id = items.take_any(tx, queue_id)
    if item_id is None:
        return None
    seen = items.require(tx, item_id)
    name = None if agent is None else agent.name
    changes: dict[str, Any] = {
        "epoch": seen.epoch + 1,
        "agent_id": None if agent is None else agent.id,
        "agent_name": name,
        "protocol": AgentProtocol.WANDB.value,
        "lease_expires_at": tx.now + context.config.pop_lease,
    }
    move(tx, seen, Phase.LEASED, actor=name, text="popped", changes=changes)
    return PoppedItem(item_id, items.specs(tx, item_id).run_spec)


def acknowledge(tx: Tx, context: Context, seen: AnyRow, run_name: str) -> bool:
    """Name the run and permit the start, or see that this was done before."""
    if seen.protocol != AgentProtocol.WANDB:
        return False
    phase = Phase(seen.phase)
    if phase in MAY_RUN:
        return bool(seen.run_name == run_name)
    expired = seen.lease_expires_at is not None and seen.lease_expires_at < tx.now
    if phase is not Phase.LEASED or expired or seen.stop_requested:
        return False
    actor = seen.agent_name
    move(tx, seen, Phase.PREPARING, actor=actor, text="acknowledged")
    # An agent that cannot be heard of, because the pop named none, cannot fall silent either.
    silent_after = None if seen.agent_id is None else tx.now + context.config.agent_timeout
    changes = {"run_name": run_name, "lease_expires_at": silent_after}
    move(tx, items.require(tx, seen.id), Phase.PERMITTED, actor=actor, changes=changes)
    return True


def fail(tx: Tx, seen: AnyRow, message: str, stage: str, file_paths: list[str]) -> bool:
    """End a held item as errored; again for one that ended so is true as well."""
    phase = Phase(seen.phase)
    if phase is Phase.ERRORED:
        return True
    if seen.protocol != AgentProtocol.WANDB or phase not in HELD:
        return False
    cause = _STAGES.get(stage, Cause.INTERNAL)
    facts = {**seen.facts, "files": file_paths} if file_paths else seen.facts
    text = message or f"the agent reported a failure at stage {stage}"
    if seen.stop_requested:
        end(tx, seen, Phase.STOPPED, Cause.STOPPED_BY_USER, text, actor=seen.agent_name)
    else:
        changes = {"facts": facts}
        end(tx, seen, Phase.ERRORED, cause, text, actor=seen.agent_name, changes=changes)
    return True


def warn(tx: Tx, seen: AnyRow, message: str) -> bool:
    """Add a warning to a held item."""
    if Phase(seen.phase) not in HELD:
        return False
    items.change(tx, seen, {"warnings": add_warning(seen, message), "updated_at": tx.now})
    notify_watchers(tx, seen)
    return True


def alive(tx: Tx, context: Context, agent_id: str) -> None:
    """An agent of W&B's was heard of: what it acknowledged is in contact again."""
    ids = items.permitted_to(tx, agent_id, AgentProtocol.WANDB)
    items.extend_leases(tx, ids, tx.now + context.config.agent_timeout)
    items.regain_contact(tx, ids)
