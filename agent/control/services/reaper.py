"""Time's consequences: expired leases, silent agents, waits that are over, retention."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import structlog

from agent.control.services.context import Context
from agent.control.services.logs import AttemptLogs
from agent.control.services.notifications import topic_queue
from agent.control.services.transitions import end, remark, requeue
from agent.control.store import agents, idempotency, items
from agent.control.store.agents import AgentProtocol
from agent.control.store.tx import AnyRow, Tx
from agent.model.cause import Cause
from agent.model.errors import LaunchError
from agent.model.phase import MAY_RUN, Phase

#: Seconds between two rounds.
INTERVAL: Final = 1.0
#: A round this late, or a clock this far off, means that nobody else was late: leases
#: begin anew.
_STALL: Final = 5.0
#: Leases lost in a row before a start, after which an item is not tried again by itself.
_POISON: Final = 3
_AT_ONCE: Final = 500
_RETENTION_EVERY: Final = 60.0
#: Seconds that an idempotency key is remembered.
_KEY_AGE: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one round changed."""

    requeued: int = 0
    poisoned: int = 0
    lost_contact: int = 0
    lost: int = 0
    removed: int = 0


class Reaper:
    """One per process; several replicas may reap at once.

    Expiry is told by the store's clock, and trusted only while that clock and this
    process's own agree: a stall of ours, a suspended machine or a clock that was set must
    not look like agents that fell silent.
    """

    def __init__(self, context: Context, logs: AttemptLogs) -> None:
        self._context = context
        self._logs = logs
        self._swept_at = -_RETENTION_EVERY
        self._round_at: float | None = None
        self._offset: float | None = None

    async def start(self) -> None:
        """Before serving: nobody is late because we were away; leases begin anew."""
        lease = self._context.config.lease
        await self._context.database.write(lambda tx: items.extend_all(tx, tx.now + lease))

    async def reap_once(self) -> Reaped:
        """One round; safe to run at any time, any number at once."""
        mine = time.monotonic()
        theirs = await self._context.database.read(lambda tx: tx.now)
        if self._is_astray(mine, theirs):
            await self.start()
            timeout = self._context.config.agent_timeout
            await self._context.database.write(lambda tx: agents.reset_heartbeats(tx, timeout))
        self._round_at, self._offset = mine, theirs - mine
        reaped = await self._context.database.write(lambda tx: _expire(tx, self._context))
        removed = 0
        if mine - self._swept_at >= _RETENTION_EVERY:
            self._swept_at = mine
            removed = await self._context.database.write(lambda tx: _sweep(tx, self._context))
        await self._logs.flush()
        return Reaped(*reaped, removed)

    async def run(self) -> None:
        """Rounds for ever, until cancelled; a failing round is logged and tried again."""
        while True:
            try:
                await self.reap_once()
            except LaunchError as error:
                structlog.get_logger().warning("reaper.round_failed", error=str(error))
            except Exception:  # noqa: BLE001 -- a mistake of ours must not end reaping
                structlog.get_logger().exception("reaper.round_failed")
            await asyncio.sleep(INTERVAL)

    def _is_astray(self, mine: float, theirs: float) -> bool:
        if self._round_at is None or self._offset is None:
            return False
        late = mine - self._round_at - INTERVAL
        return late > _STALL or abs(theirs - mine - self._offset) > _STALL


def _expire(tx: Tx, context: Context) -> tuple[int, int, int, int]:
    tx.notify(*(topic_queue(queue_id) for queue_id in items.end_waits(tx)))
    requeued = poisoned = out_of_contact = lost = 0
    for row in items.expired(tx, _AT_ONCE):
        if Phase(row.phase) not in MAY_RUN:
            is_poison = _lease_lost(tx, row)
            poisoned += is_poison
            requeued += not is_poison
        elif row.lost_contact_at is None:
            out_of_contact += 1
            text = f"lost contact with agent {row.agent_name}"
            remark(tx, row, text, lost_contact_at=tx.now)
        elif row.lost_contact_at + context.config.lost_contact <= tx.now:
            lost += 1
            text = f"agent {row.agent_name} stayed silent after the start was permitted"
            end(tx, row, Phase.LOST, Cause.LOST_AGENT, text)
    return requeued, poisoned, out_of_contact, lost


def _lease_lost(tx: Tx, row: AnyRow) -> bool:
    """Put an item back that nothing ran of; true when it was withdrawn as poison instead.

    W&B's agents let leases lapse on purpose, so these never count.
    """
    losses = row.lease_losses + (row.protocol != AgentProtocol.WANDB)
    if losses >= _POISON and not row.stop_requested:
        text = f"{losses} agents in a row fell silent while preparing it, {row.agent_name} last"
        end(tx, row, Phase.ERRORED, Cause.LOST_POISON, text)
        return True
    requeue(tx, row, f"the lease of agent {row.agent_name} ran out", losses=losses)
    return False


def _sweep(tx: Tx, context: Context) -> int:
    before = tx.now - context.config.keep_items
    return (
        items.remove_finished(tx, before, _AT_ONCE)
        + agents.remove_silent(tx, before)
        + idempotency.forget(tx, tx.now - _KEY_AGE)
    )
