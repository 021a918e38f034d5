"""Capacity of agents, demands of jobs, and allocations."""

from dataclasses import dataclass
from typing import TypeVar

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What is free on an agent. `None` means unlimited or not accounted for."""

    #: Further jobs.
    slots: int | None = 1
    #: Cores.
    cpus: float | None = None
    #: Bytes.
    memory: int | None = None
    #: Ids of free devices.
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Demand:
    """What one job asks for; an empty demand fits everywhere."""

    cpus: float | None = None
    memory: int | None = None
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Allocation:
    """What is reserved for one job."""

    cpus: float | None = None
    memory: int | None = None
    gpus: tuple[str, ...] = ()


def fits(demand: Demand, free: Capacity) -> bool:
    """Whether the demand fits into what is free, one slot included."""
    return (
        (free.slots is None or free.slots >= 1)
        and _within(demand.cpus, free.cpus)
        and _within(demand.memory, free.memory)
        and demand.gpus <= len(free.gpus)
    )


def allocate(demand: Demand, free: Capacity) -> Allocation:
    """Reserve a demand that `fits`; the first free devices are taken."""
    return Allocation(demand.cpus, demand.memory, free.gpus[: demand.gpus])


def minus(free: Capacity, allocation: Allocation) -> Capacity:
    """What is free after an allocation and its slot are taken."""
    return Capacity(
        slots=None if free.slots is None else free.slots - 1,
        cpus=_less(free.cpus, allocation.cpus),
        memory=_less(free.memory, allocation.memory),
        gpus=tuple(gpu for gpu in free.gpus if gpu not in allocation.gpus),
    )


def _within(asked: float | None, room: float | None) -> bool:
    return asked is None or room is None or asked <= room


def _less(room: Number | None, taken: Number | None) -> Number | None:
    return room if room is None or taken is None else room - taken
