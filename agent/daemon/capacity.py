"""The agent's capacity: what its attempts have allocated, and what is left for claims.

`slots` (`max_jobs`) limits the jobs of all backends. Cores, memory and devices are those of this
machine: they are counted for backends that run jobs here. A backend that schedules by itself
(its runner's `demand` is `None`) gets allocations of a slot only. The control plane chooses the
devices: `agent.model.capacity.allocate`.

What a claim asks for is in `claim.py`; what fits into it is decided by the control plane:
`control/services/claims.py`.
"""

import asyncio

from agent.model.capacity import Allocation, Capacity, minus
from agent.model.work import Lease


class CapacityTracker:
    """Allocations by lease. A device is allocated to one attempt at a time."""

    def __init__(self, total: Capacity) -> None:
        self.total = total
        self._allocations: dict[Lease, Allocation] = {}
        #: Set, and replaced by a new one, whenever an allocation is freed.
        self._freed = asyncio.Event()

    @property
    def free(self) -> Capacity:
        """What a claim may ask for; `slots` can be negative after adoptions."""
        free = self.total
        for allocation in self._allocations.values():
            free = minus(free, allocation)
        return free

    @property
    def counts_resources(self) -> bool:
        """Whether the end of a running job frees more than its slot."""
        running = self._allocations.values()
        return any(one.cpus or one.memory or one.gpus for one in running)

    def devices_in_use(self, allocation: Allocation) -> tuple[str, ...]:
        """The devices of a new allocation that are not free."""
        free = self.free.gpus
        return tuple(gpu for gpu in allocation.gpus if gpu not in free)

    def allocate(self, lease: Lease, allocation: Allocation) -> None:
        """Record what an attempt uses from now on."""
        self._allocations[lease] = allocation

    def free_allocation(self, lease: Lease) -> None:
        """The attempt's allocation is free again; repeating the call has no effect."""
        if self._allocations.pop(lease, None) is not None:
            freed, self._freed = self._freed, asyncio.Event()
            freed.set()

    async def wait_freed(self) -> None:
        """Wait until an allocation is freed."""
        await self._freed.wait()

    async def wait_for_slot(self) -> None:
        """Wait until one more job is allowed."""
        while (slots := self.free.slots) is not None and slots <= 0:
            await self.wait_freed()
