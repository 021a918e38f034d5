"""The first start after a database was restored from a backup.

What happened since the backup is not in it: items that wait there may have run, and leases were
granted that it does not know. Nothing may start before somebody has looked.
"""

from dataclasses import dataclass
from typing import Final

from agent.control.services.transitions import end, requeue
from agent.control.store import restore
from agent.control.store.tx import Tx
from agent.model.cause import Cause
from agent.model.phase import MAY_RUN, Phase

#: Added to epochs: no lease that was granted since the backup has one of those.
_EPOCHS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Restored:
    """What the backup had."""

    #: Paused now.
    queues: int
    #: Waiting now.
    waiting: int
    #: Lost now: they had a start permit.
    lost: int


def after_restore(tx: Tx) -> Restored:
    """Pause all queues, fence all agents, and end what may have run since."""
    paused = restore.pause_queues(tx)
    restore.add_to_epochs(tx, _EPOCHS)
    lost = 0
    for row in restore.held(tx):
        if Phase(row.phase) in MAY_RUN:
            text = "it ran when the backup was made that the control plane was restored from"
            end(tx, row, Phase.LOST, Cause.LOST_AGENT, text)
            lost += 1
        else:
            requeue(tx, row, "the control plane was restored from a backup")
    return Restored(paused, restore.count_queued(tx), lost)
