"""What this agent has set aside, and what is therefore free."""

import asyncio

from agent.model.capacity import Allocation, Capacity, minus
from agent.model.work import Lease


class Ledger:
    """Grants by lease. A device is never handed out twice."""

    def __init__(self, total: Capacity) -> None:
        self._total = total
        self._grants: dict[Lease, Allocation] = {}
        #: Set, and replaced, whenever something came back.
        self._returned = asyncio.Event()

    @property
    def free(self) -> Capacity:
        """What a claim may name; slots may be below zero after adoptions."""
        free = self._total
        for allocation in self._grants.values():
            free = minus(free, allocation)
        return free

    @property
    def total(self) -> Capacity:
        """What the agent offers when it is idle."""
        return self._total

    @property
    def measured(self) -> bool:
        """Whether more than slots is counted, so that what comes back may let more in."""
        total = self._total
        return total.cpus is not None or total.memory is not None or bool(total.gpus)

    @property
    def has_room(self) -> bool:
        """Whether one more job could come."""
        slots = self.free.slots
        return slots is None or slots > 0

    def conflict(self, allocation: Allocation) -> tuple[str, ...]:
        """Devices of a grant that are not free."""
        free = self.free.gpus
        return tuple(gpu for gpu in allocation.gpus if gpu not in free)

    def take(self, lease: Lease, allocation: Allocation) -> None:
        """Set aside for an attempt."""
        self._grants[lease] = allocation

    def give_back(self, lease: Lease) -> None:
        """The attempt needs it no longer; legal twice."""
        if self._grants.pop(lease, None) is not None:
            returned, self._returned = self._returned, asyncio.Event()
            returned.set()

    async def returned(self) -> None:
        """Wait until something comes back."""
        await self._returned.wait()

    async def room(self) -> None:
        """Wait until one more job could come."""
        while not self.has_room:
            await self.returned()
