"""Values of the protocol between agent and control plane; both halves use these classes."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from agent.model.capacity import Capacity
from agent.model.work import Claim, Lease


class LeaseStatus(StrEnum):
    """The control plane's answer to every write that names a lease."""

    #: Accepted. After `finish` and `release` the lease is over.
    HELD = "HELD"
    #: The attempt belongs to another agent: stop, and touch nothing.
    FENCED = "FENCED"
    #: Accepted; the lease is held, and the item is to be stopped.
    STOP = "STOP"


class AttemptStatus(StrEnum):
    """What the queue knows about an attempt that this process does not hold."""

    #: It has an outcome, or a later attempt was opened: its workload may be removed.
    ENDED = "ENDED"
    #: It waits, or another agent holds its lease: leave its workload alone.
    ACTIVE = "ACTIVE"
    #: No such item, or none that this key may read.
    UNKNOWN = "UNKNOWN"


class ConditionKind(StrEnum):
    """What keeps a live agent from claiming."""

    #: Less free space than `min_free_disk`: nothing is claimed. With a resource: its engine had
    #: no space left for a job.
    DISK_LOW = "DISK_LOW"
    #: The engine behind a resource does not answer: nothing is claimed for that resource.
    ENGINE_UNREACHABLE = "ENGINE_UNREACHABLE"
    #: The builder of a resource, or the registry it pushes to, does not answer: as above.
    BUILDER_UNREACHABLE = "BUILDER_UNREACHABLE"

    @property
    def word(self) -> str:
        """As users read it."""
        return self.value.replace("_", " ").lower()


@dataclass(frozen=True, slots=True)
class Condition:
    """One reason not to claim, with a sentence for users."""

    kind: ConditionKind
    message: str
    #: The resource concerned; `None`: all of them.
    resource: str | None = None

    def prevents_claims_for(self, resource: str | None) -> bool:
        """Whether jobs for this resource are not claimed meanwhile."""
        return self.resource is None or self.resource == resource


@dataclass(frozen=True, slots=True)
class AgentRegistration:
    """What one process of an agent registers with."""

    entity: str | None
    name: str
    hostname: str
    version: str
    queues: tuple[str, ...]
    #: Stable across restarts of one installation.
    identity: str
    #: New for every process.
    session: str
    #: Id of the container engine; agents that share it may adopt each other's workloads.
    backend_id: str | None
    resources: tuple[str, ...]
    capacity: Capacity
    config: dict[str, Any]
    #: The last process of this installation shut down in order. What it could not release, since
    #: the control plane was away, does not count as a lost lease.
    after_shutdown: bool = False


@dataclass(frozen=True, slots=True)
class RegisteredAgent:
    """What a registered process needs to know."""

    agent_id: str
    agent_name: str
    entity: str
    control_plane_id: str
    heartbeat_seconds: float
    lease_seconds: float
    held: tuple[Claim, ...]


#: Most items that one claim may ask for.
MAX_CLAIMED: Final = 100


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """One long poll; repeat it with the same `request_id` until it was answered."""

    agent_id: str
    session: str
    request_id: str
    free: Capacity
    #: Empty: all queues it registered for.
    queues: tuple[str, ...] = ()
    max_items: int = 1
    wait_seconds: float = 25.0
    #: What can be run now, of what was registered; `None`: all of it.
    resources: tuple[str, ...] | None = None
    #: Resources whose backend schedules by itself: `free` limits only the number of their jobs.
    self_scheduled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Heartbeat and renewal. `status`: POLLING, RUNNING, DRAINING or KILLED (shut down)."""

    agent_id: str
    session: str
    status: str
    leases: tuple[Lease, ...]
    #: All that keeps the agent from claiming now.
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """`statuses` by item id. `current` is false once a newer session registered."""

    statuses: dict[str, LeaseStatus]
    current: bool
    #: An operator asked the agent to shut down.
    stop: Literal["DRAIN", "STOP"] | None
    #: Agents of the same backend are gone that left started jobs: `QueuePort.adopt` them.
    adoptable: bool = False
