"""Time's consequences: expired leases, silent agents, retention."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one round changed."""

    requeued: int = 0
    poisoned: int = 0
    lost_contact: int = 0
    lost: int = 0
    removed: int = 0


class Reaper:
    """One per process; several replicas may reap at once."""

    async def start(self) -> None:
        """Before serving: nobody is late because we were away; leases begin anew."""
        raise NotImplementedError

    async def reap_once(self) -> Reaped:
        """One round; safe to run at any time, any number at once."""
        raise NotImplementedError

    async def run(self) -> None:
        """Rounds for ever, until cancelled; a failing round is logged and tried again."""
        raise NotImplementedError
