"""The states of the model: one item, its control plane, engines and agents; all hashable.

The control plane keeps everything in one durable store, and each call is one transaction. So its
death is the loss of requests and answers, which `World.messages` models: a request that nobody
waits for any more may still arrive, or never.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from agent.daemon.journal import JournalEntry
from agent.daemon.recovery import Found, RecoveryAction
from agent.model.phase import Phase
from agent.model.work import Lease
from agent.ports.runner import WorkloadState


class End(StrEnum):
    """How a job ended, or what is told about it."""

    #: By itself; the exit code is the job's.
    OWN = "own"
    #: With its engine; the exit code is the engine's.
    ENGINE = "engine"
    #: Stopped on request while it ran.
    STOPPED = "stopped"
    #: Told only: stopped before it was started.
    UNSTARTED = "stopped before the start"
    #: Told only: it could not be started.
    NEVER = "never started"
    #: Told only: nobody can say.
    LOST = "lost"


class Step(StrEnum):
    """What an agent does next."""

    DOWN = "down"
    #: It has registered; it lists its engine's workloads and decides.
    RECOVER = "recover"
    IDLE = "idle"
    CREATE = "create"
    PERMIT = "permit"
    #: Make it durable that a start is going to be sent.
    NOTE = "note"
    SEND = "send"
    #: A start was sent and not answered.
    FIND = "find"
    WATCH = "watch"
    #: Make the outcome durable.
    OUTCOME = "outcome"
    FINISH = "finish"
    DESTROY = "destroy"


class Container(NamedTuple):
    """One workload as its engine tells it; the epoch stands for its id as well."""

    epoch: int
    state: WorkloadState = WorkloadState.CREATED
    #: What its exit code is: the job's or the engine's.
    end: End | None = None
    #: The engine's process that started it.
    boot: int = 0


class Engine(NamedTuple):
    """A container engine; `containers` by attempt. The name of a container is its attempt."""

    up: bool = True
    #: Number of its process.
    boot: int = 1
    containers: tuple[Container | None, ...] = (None,)


class Entry(NamedTuple):
    """The journal's entry of one attempt."""

    epoch: int
    start_sent: bool = False
    outcome: End | None = None
    over: bool = False


class Agent(NamedTuple):
    """An agent and, in `journal`, what survives its process."""

    step: Step = Step.IDLE
    attempt: int = 0
    epoch: int = 0
    #: This process created the container itself and has sent no start for it.
    fresh: bool = False
    outcome: End | None = None
    #: By attempt.
    journal: tuple[Entry | None, ...] = (None,)
    #: A write that is not durable yet: attempt and entry.
    unsaved: tuple[int, Entry] | None = None


class Item(NamedTuple):
    """The item's row at the control plane."""

    phase: Phase = Phase.QUEUED
    attempt: int = 1
    epoch: int = 0
    holder: int | None = None
    stop_requested: bool = False
    #: The control plane has lost contact with the holder.
    silent: bool = False
    retried: int = 0


class Message(NamedTuple):
    """A request whose sender does not wait for the answer (any more)."""

    call: str
    agent: int
    attempt: int
    epoch: int
    outcome: End | None = None


class Attempt(NamedTuple):
    """The truth about an attempt, which nobody in the model sees, and what was told."""

    starts: int = 0
    end: End | None = None
    told: End | None = None


class World(NamedTuple):
    """One state; `faults` is how many may still happen."""

    item: Item
    engines: tuple[Engine, ...]
    agents: tuple[Agent, ...]
    faults: int
    messages: frozenset[Message] = frozenset()
    attempts: tuple[Attempt, ...] = (Attempt(),)


Decide = Callable[[Phase, Lease, JournalEntry | None, Found | None], RecoveryAction]


@dataclass(frozen=True)
class Setup:
    """What is searched, and by which rules."""

    decide: Decide
    faults: int
    agents: int = 1
    #: All agents use one engine, and so may adopt each other's jobs.
    shared_engine: bool = False
    on_lost: str = "fail"
    #: A user asks for a stop at some time.
    stops: bool = False
    #: A source or an image turns out to be wrong.
    errors: bool = False
    #: Whether an exit code counts although its engine was not alive from the start to the end.
    trusts_every_exit_code: bool = False
    #: Whether a start whose answer was lost is sent again when the engine says `created`.
    repeats_start: bool = False

    def first(self) -> World:
        """The item is queued, everybody is up."""
        engines = (Engine(),) * (1 if self.shared_engine else self.agents)
        return World(Item(), engines, (Agent(),) * self.agents, self.faults)

    def engine_of(self, agent: int) -> int:
        """Number of an agent's engine."""
        return 0 if self.shared_engine else agent


class Next(NamedTuple):
    """One thing that can happen. A fault: the item has to come to its end without it."""

    what: str
    world: World
    is_fault: bool = False


def put(values: tuple, index: int, value: object) -> tuple:
    """A tuple with one value replaced."""
    return (*values[:index], value, *values[index + 1 :])
