"""What an agent is to hear at once, in a form that can be waited for."""

import hashlib
import json

from agent.control.store import items
from agent.control.store.tx import AnyRow, Tx


def mark(tx: Tx, agent: AnyRow, session: str) -> str:
    """Stands for all that a renewal would tell this session to do; changes when that does.

    It is made of what is stored, not counted: so it needs no place of its own, and no
    replica can miss a step of it.
    """
    stops = [[row.id, row.attempt] for row in items.to_stop(tx, agent.id)]
    told = json.dumps([agent.session == session, agent.stop, stops])
    return hashlib.sha256(told.encode()).hexdigest()[:24]
