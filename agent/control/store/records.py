"""What the services hand out: frozen, ready to show, without a trace of SQL.

Times are aware and in UTC. Ids are opaque texts; those of items and agents are 12
lower-case base32 characters. JSON values keep the order of their keys.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, Literal, TypeVar

from agent.model.capacity import Allocation, Capacity, Demand
from agent.model.cause import Cause
from agent.model.phase import Phase, wire_state
from agent.model.protocol import Condition
from agent.model.spec import Json
from agent.model.work import Lease

T = TypeVar("T")

Prioritization = Literal["DISABLED", "V0"]
Access = Literal["PROJECT", "USER"]
Channel = Literal["setup", "job"]
StopMode = Literal["DRAIN", "STOP"]


class Role(StrEnum):
    """What a member of an entity may do; see `agent.control.auth.policy`."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


class AgentProtocol(StrEnum):
    """What an agent talks to the control plane in: leases (ours), or pop and ack (W&B's)."""

    LAUNCH = "launch"
    WANDB = "wandb"


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A slice of a longer list; `end_cursor` is given back as `after` to go on."""

    rows: tuple[T, ...]
    end_cursor: str | None
    has_next: bool
    total: int


@dataclass(frozen=True, slots=True)
class EntityRecord:
    """A user's own space or a team's."""

    id: str
    name: str
    is_team: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A person; `entity` is the name of the personal entity."""

    id: str
    name: str
    email: str | None
    admin: bool
    entity: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A user's role in an entity."""

    user: str
    entity: str
    role: Role


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key without the key: only its hash is stored."""

    id: str
    #: `user`, or `agent`: a service key bound to an entity and queues.
    kind: Literal["user", "agent"]
    name: str
    #: The last characters, so that people can tell keys apart.
    hint: str
    user: str | None
    entity: str | None
    #: Queue names that an agent key may serve; `None` means all of its entity.
    queues: tuple[str, ...] | None
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made: `secret` is shown once and never again."""

    record: KeyRecord
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProjectRecord:
    """A project; `number` is an integer because clients parse it as one."""

    number: int
    name: str
    entity: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ResourceConfigRecord:
    """W&B's default resource config: what a queue created with it takes as its template."""

    id: str
    entity: str
    resource: str
    config: Json
    template_variables: dict[str, Json]


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """A queue; `resource` is `None` until an agent or an administrator has chosen one."""

    id: str
    entity: str
    name: str
    access: Access
    created_by: str
    resource: str | None
    #: `{"resource_args": {"<resource>": {…}}}` and other keys of a launch spec.
    config: Json
    #: `{"<variable>": {"schema": {…}, "description": "…"}}`.
    template_variables: dict[str, Json]
    prioritization: Prioritization
    external_links: Json | None
    resource_config_id: str | None
    paused: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """One item of a queue, as people see it. Keys inside the spec are masked."""

    id: str
    entity: str
    project: str
    #: Name of the queue, kept when the queue is deleted; `queue_id` is `None` then.
    queue: str
    queue_id: str | None
    phase: Phase
    attempt: int
    epoch: int
    name: str | None
    run_name: str | None
    author: str | None
    priority: int
    resource: str | None
    demand: Demand
    allocation: Allocation | None
    run_spec: Json
    facts: Json
    warnings: tuple[str, ...]
    activity: str | None
    agent_id: str | None
    agent_name: str | None
    protocol: AgentProtocol | None
    cause: Cause | None
    message: str | None
    exit_code: int | None
    stop_requested: bool
    #: The holder of a permitted attempt is silent: it may still be running.
    lost_contact: bool
    #: Leases lost in a row before a start.
    lease_losses: int
    retries: int
    on_lost: Literal["fail", "retry"]
    enqueued_at: datetime
    #: Nobody takes it before then.
    not_before: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def state(self) -> str:
        """The state that W&B's clients know."""
        return wire_state(self.phase)


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try at an item."""

    item_id: str
    number: int
    phase: Phase
    agent_id: str | None
    agent_name: str | None
    cause: Cause | None
    message: str | None
    exit_code: int | None
    started_at: datetime | None
    finished_at: datetime | None
    setup_log_bytes: int
    job_log_bytes: int


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One step of an item's history, oldest first."""

    at: datetime
    phase: Phase
    attempt: int
    epoch: int
    #: Name of the user or agent that caused it; `None` for the control plane itself.
    actor: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent, alive or not."""

    id: str
    entity: str
    name: str
    hostname: str
    version: str | None
    protocol: AgentProtocol
    #: POLLING, RUNNING, DRAINING or KILLED, as the agent said last.
    status: str
    #: No heartbeat for `agent_timeout`, and no goodbye.
    lost: bool
    #: An operator asked it to leave.
    stop: StopMode | None
    backend: str | None
    resources: tuple[str, ...]
    capacity: Capacity | None
    config: Json
    #: What keeps it from claiming, as it said last.
    conditions: tuple[Condition, ...]
    queue_ids: tuple[str, ...]
    queue_names: tuple[str, ...]
    heartbeat_at: datetime
    created_at: datetime

    @property
    def live(self) -> bool:
        """Whether it can be expected to claim or to report."""
        return not self.lost and self.status != "KILLED"


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """An item handed to an agent."""

    lease: Lease
    phase: Phase
    entity: str
    project: str
    queue: str
    run_name: str
    name: str | None
    author: str | None
    priority: int
    resource: str
    #: As submitted and merged, keys included: never show or log it.
    run_spec: Json = field(repr=False)
    #: `queue`, `job`, `submitter`: who set what.
    layers: dict[str, Json] = field(repr=False)
    allocation: Allocation
    run_token: str = field(repr=False)
    lease_seconds: float
    stop_requested: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AgentWithItems:
    """An agent that registered, with the items it holds."""

    agent: AgentRecord
    held: tuple[ClaimRecord, ...]


@dataclass(frozen=True, slots=True)
class PoppedItem:
    """What W&B's agents get from a pop."""

    item_id: str
    run_spec: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class Submission:
    """One run to be put on a queue."""

    entity: str | None
    project: str | None
    queue: str
    run_spec: Json = field(repr=False)
    template_variables: Json = field(default_factory=dict)
    #: `None` means 2.
    priority: int | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a submission would queue. Keys inside the spec are masked."""

    entity: str
    project: str
    #: Empty for a direct run.
    queue: str
    priority: int
    resource: str | None
    demand: Demand
    run_spec: Json
    #: What each layer set: `queue`, `job`, `submitter`.
    layers: dict[str, Json]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogState:
    """How much of an attempt's log is stored, and whether more may come."""

    end: int
    #: The attempt is over: nothing more will be written.
    complete: bool
    entity: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A W&B run, as far as launching needs it."""

    id: str
    entity: str
    project: str
    project_number: int
    name: str
    display_name: str | None
    description: str | None
    notes: str | None
    tags: tuple[str, ...]
    group: str | None
    job_type: str | None
    commit: str | None
    config: Json
    summary: Json
    state: str
    stopped: bool
    exit_code: int | None
    host: str | None
    program: str | None
    sweep: str | None
    user: str | None
    #: The item that launched it, if one did.
    item_id: str | None
    created_at: datetime
    heartbeat_at: datetime


@dataclass(frozen=True, slots=True)
class Explanation:
    """One answer: what the situation is, why, and what to do."""

    cause: Cause
    summary: str
    remedy: str
    details: tuple[str, ...]
