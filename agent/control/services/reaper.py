"""Periodic work on the store: expired leases, lost agents, crashed runs, ended retry delays.

The quarantine is `transitions.quarantine_or_count_loss`.
"""

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Final

import structlog

from agent.control.services.context import Service, ServiceContext, write
from agent.control.services.notifications import topic_queue
from agent.control.services.transitions import add_event, end, quarantine_or_count_loss, requeue
from agent.control.store import agents, items, runs, work_leases
from agent.control.store.ids import new_id
from agent.control.store.tx import Tx
from agent.model.cause import Cause
from agent.model.errors import LaunchError
from agent.model.phase import MAY_RUN, Phase

#: Seconds between two rounds.
INTERVAL: Final = 1.0
#: Seconds after which another replica takes over from one that was killed.
_LEASE: Final = 4.0
#: After a round that is this many seconds late, or a clock step of this size, all leases are
#: extended: agents could not renew while the control plane did not run.
_STALL: Final = 5.0
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one round changed."""

    requeued: int = 0
    quarantined: int = 0
    lost_contact: int = 0
    lost: int = 0
    #: Runs whose process went silent.
    crashed: int = 0


class Reaper(Service):
    """One per process; of several replicas one does the work, and the others stand by.

    Expiry is decided by the store's clock, and only while that clock and this process's
    monotonic clock agree: a stalled process, a suspended machine or a changed clock must not
    look like agents that stopped renewing.
    """

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(context)
        self._holder = new_id()
        self._round_at: float | None = None
        self._offset: float | None = None
        #: When a stall was noticed, until the leases of items have been extended after it: by this
        #: process, or within the time of one such lease by the one that reaps.
        self._stalled_at: float | None = None
        self._item_lease = context.config.lease

    @write
    def start(self, tx: Tx) -> None:
        """Before serving: agents could not renew leases, nor runs report, during downtime."""
        self._extend_leases(tx)

    async def reap_once(self) -> Reaped:
        """One round; safe to run at any time, several at once.

        A replica that stalled alone extends nothing: another one has taken its lease meanwhile.
        """
        local = time.monotonic()
        stored, leads = await self._take_lease()
        if self._has_stalled(local, stored):
            self._stalled_at = local
        self._round_at, self._offset = local, stored - local
        if not leads:
            if self._stalled_at is not None and local - self._stalled_at > self._item_lease:
                self._stalled_at = None
            return Reaped()
        if self._stalled_at is not None:
            await self._extend_all()
            self._stalled_at = None
        return await self._expire()

    async def run(self) -> None:
        """Rounds until cancelled; a failing round is logged and tried again."""
        while True:
            try:
                reaped = await self.reap_once()
                if reaped != Reaped():
                    structlog.get_logger().info("leases or runs expired", **asdict(reaped))
            except LaunchError as error:
                structlog.get_logger().warning("reaper round failed", error=str(error))
            except Exception:  # noqa: BLE001 -- a bug in one round must not end reaping
                structlog.get_logger().exception("reaper round failed")
            await asyncio.sleep(INTERVAL)

    def _has_stalled(self, local: float, stored: float) -> bool:
        if self._round_at is None or self._offset is None:
            return False
        late = local - self._round_at - INTERVAL
        return late > _STALL or abs(stored - local - self._offset) > _STALL

    @write
    def _take_lease(self, tx: Tx) -> tuple[float, bool]:
        return tx.now, work_leases.take(tx, "reaper", self._holder, _LEASE)

    @write
    def stop(self, tx: Tx) -> None:
        """Let another replica take over at once; after `run` has ended."""
        work_leases.release(tx, self._holder)

    @write
    def _extend_all(self, tx: Tx) -> None:
        self._extend_leases(tx)
        agents.reset_heartbeats(tx, self._context.config.agent_timeout)

    def _extend_leases(self, tx: Tx) -> None:
        items.extend_all_leases(tx, tx.now + self._item_lease)
        runs.extend_all(tx)

    @write
    def _expire(self, tx: Tx) -> Reaped:
        tx.notify(*(topic_queue(queue_id) for queue_id in items.end_delays(tx)))
        crashed = runs.end_silent(tx, tx.now - self._context.config.run_timeout)
        requeued = quarantined = lost_contact = lost = 0
        for row in items.expired(tx, _BATCH):
            if Phase(row.phase) not in MAY_RUN:
                losses = quarantine_or_count_loss(tx, row)
                if losses is None:
                    quarantined += 1
                    continue
                requeued += 1
                text = f"the lease of agent {row.agent_name} expired"
                requeue(tx, row, text, losses=losses)
            elif row.lost_contact_at is None:
                lost_contact += 1
                text = f"lost contact with agent {row.agent_name}"
                add_event(tx, row, text, lost_contact_at=tx.now)
            elif row.lost_contact_at + self._context.config.lost_contact <= tx.now:
                lost += 1
                text = f"{row.agent_name} stopped sending heartbeats after the start was permitted"
                end(tx, row, Phase.LOST, Cause.LOST_AGENT, text)
        return Reaped(requeued, quarantined, lost_contact, lost, crashed)
