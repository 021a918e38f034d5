"""The queue, as the agent sees it.

Life cycle
----------
`register` once per process; its answer names leases that an earlier process of the same
installation held, already under a fresh epoch. Then, concurrently and for ever: `claim`
(long poll), `renew` (heartbeat and batch renewal, every `heartbeat_seconds`) and, where the
far end has it, `orders` (long poll: when to renew at once). Per held
lease: `advance` any number of times, `permit` exactly before the one call that starts,
`advance(phase=STARTED)`, `finish`; or, before `permit`, `release`.

Every write names a `Lease`. An answer `FENCED` means that somebody else owns the attempt:
stop and touch nothing. All calls are idempotent, so the implementation may repeat them;
each call carries its own deadline, and raises `UnreachableError` once that has passed.
Nothing here retries for ever: loops that must (renewal, the outcome outbox) do it
themselves.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol

from agent.model.capacity import Capacity
from agent.model.condition import Condition
from agent.model.outcome import Outcome
from agent.model.phase import Phase
from agent.model.work import Claim, Lease

Channel = Literal["setup", "job"]


class Answer(StrEnum):
    """What the queue says to a write about a lease."""

    KEPT = "KEPT"
    FENCED = "FENCED"
    STOP = "STOP"


class Standing(StrEnum):
    """What the queue knows about an attempt that this process does not hold."""

    #: It has an outcome, or a later attempt was opened: what is left of it may be swept.
    OVER = "OVER"
    #: It waits, or somebody else holds it: leave its workload alone.
    OPEN = "OPEN"
    #: No such item, or none that this key may read.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Hello:
    """An agent introduces one process of itself."""

    entity: str | None
    name: str
    hostname: str
    version: str
    queues: tuple[str, ...]
    #: Stable across restarts of one installation.
    identity: str
    #: New for every process.
    session: str
    #: Id of the engine behind it; who shares it may adopt.
    backend: str | None
    resources: tuple[str, ...]
    capacity: Capacity
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a registered process needs to know."""

    agent_id: str
    agent_name: str
    entity: str
    control_plane_id: str
    heartbeat_seconds: float
    lease_seconds: float
    held: tuple[Claim, ...]
    #: The far end has `orders`; without, all of that comes with the next renewal.
    tells_orders: bool = False
    #: A claim may name `resources`; without, they are ignored.
    narrows_claims: bool = False


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """One long poll; repeat it with the same `request_id` until it was answered."""

    agent_id: str
    session: str
    request_id: str
    free: Capacity
    queues: tuple[str, ...]
    max_items: int = 1
    wait_seconds: float = 25.0
    #: What can be run now, of what was registered; `None`: all of it.
    resources: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """Heartbeat and renewal. `status`: POLLING, RUNNING, DRAINING or KILLED (goodbye)."""

    agent_id: str
    session: str
    status: str
    leases: tuple[Lease, ...]
    #: All that keeps the agent from claiming now.
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class BeatAnswer:
    """`answers` by item id. `current` is false once a newer session took over."""

    answers: dict[str, Answer]
    current: bool
    #: An operator asked the agent to leave.
    stop: Literal["DRAIN", "STOP"] | None


class QueuePort(Protocol):
    """See the module's text for order, idempotence and deadlines."""

    async def register(self, hello: Hello) -> Welcome:
        """Announce this process.

        Raises:
            NotFoundError: a queue or the entity does not exist; the message names it.
            ConflictError: another live installation uses this name.
            AuthenticationError, PermissionDeniedError: the key.
        """

    async def claim(self, request: ClaimRequest) -> tuple[Claim, ...]:
        """Wait for items that fit; empty after `wait_seconds` without any."""

    async def renew(self, beat: Beat) -> BeatAnswer:
        """Renew all leases in one call."""

    async def orders(
        self, agent_id: str, session: str, seen: str | None, wait_seconds: float
    ) -> str:
        """Wait until a renewal would answer something new: a stop, leave, give way.

        The mark that comes back stands for what there is now; hand it in as `seen` the next
        time, so that nothing is missed between two calls. The same mark: nothing came.
        """

    async def advance(
        self,
        lease: Lease,
        *,
        phase: Phase | None = None,
        activity: str | None = None,
        facts: dict[str, Any] | None = None,
        warning: str | None = None,
    ) -> Answer:
        """Report progress; `phase` only PREPARING or STARTED."""

    async def permit(self, lease: Lease) -> Answer:
        """Ask for the one permit to start; `KEPT` grants it."""

    async def finish(self, lease: Lease, outcome: Outcome, facts: dict[str, Any]) -> Answer:
        """Report the outcome; the same outcome twice is `KEPT` twice."""

    async def release(self, lease: Lease, reason: str) -> Answer:
        """Hand an item back that was not permitted."""

    async def append_log(self, lease: Lease, channel: Channel, offset: int, data: bytes) -> int:
        """Store bytes at `offset` and return the end of what is stored.

        What is stored already is skipped. An answer below `offset` means a gap: send again
        from there, or say what is missing.

        Raises:
            FencedError: the lease is not ours any more.
        """

    async def log_end(self, lease: Lease, channel: Channel) -> int:
        """How many bytes of a channel are stored: where to go on after a restart."""

    async def standing(self, lease: Lease) -> Standing:
        """Whether an attempt that is not ours any more is over; used before sweeping."""


class BlobPort(Protocol):
    """Reads what submitters stored by digest."""

    def read_blob(self, entity: str, digest: str) -> AsyncGenerator[bytes, None]:
        """Stream a blob; whoever leaves early closes the generator.

        Raises:
            JobError: `SOURCE_NOT_FOUND` when it is not there, `SOURCE_UNREACHABLE`.
        """
