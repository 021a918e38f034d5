"""How a job runs.

Life cycle of one attempt
-------------------------
`check` and `demand` for the resource arguments (no side effect) → `create`: everything that
does not run → *the caller obtains the start permit* → `start`: the one call that makes it run
→ `watch` and `logs`, concurrently → `destroy`, after the control plane has acknowledged the
outcome. `stop` may come at any time after `create`.

The contract fits a backend that starts at once (Docker, processes) and one that queues: after
`start`, `watch` may report PENDING for as long as the backend finds no place for the job.

What every runner guarantees, and the conformance suite (`agent.testing.runner_suite`) tests:

- The name prevents a second workload. `create` with a name that exists compares labels: ours
  (same control plane, item and attempt) is adopted and returned as found; foreign is refused.
  What an earlier epoch created and never started is replaced, since its token, devices and
  arguments belong to a lease that was lost; what a later epoch created raises `FencedError`.
- `start` makes a workload run at most once, whoever calls it and however often, as far as the
  backend's word can be trusted; and it sends one request, unless the backend itself refuses the
  second of two (Kubernetes: the name exists). If the answer is lost, the runner finds out what
  happened before it returns. A caller that cannot exclude that an earlier process
  sent a start calls `settle`: an engine that was killed in the middle of a start may have run the
  job and still report `created`.
- Nothing restarts or is removed automatically.
- A workload outlives the agent: a new process finds it with `owned`, with its log from the
  first byte and its ending.
- `stop` and `destroy` may be called twice, and without a start. After `stop(grace)` the whole
  job is dead: SIGTERM, at most `grace` seconds, SIGKILL, child processes included.
- Cancelling a call of ours never harms the workload.
"""

import signal
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from agent.model.capacity import Allocation, Demand
from agent.model.cause import Cause
from agent.model.errors import LaunchError
from agent.model.spec import Json
from agent.model.work import Image, Lease, MountedCode

_SIGNALS: Final = frozenset(signal.valid_signals())


class WorkloadState(StrEnum):
    """As the backend reports it."""

    #: Never started.
    CREATED = "created"
    #: Started; the backend has not placed it yet.
    PENDING = "pending"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class RunRequest:
    """All that is needed to create a workload."""

    lease: Lease
    #: Deterministic, see `agent.model.work.workload_name`.
    name: str
    labels: dict[str, str]
    image: Image
    #: Empty means the image's own entry point.
    command: tuple[str, ...]
    args: tuple[str, ...]
    #: Holds secrets: never in argv, labels or logs.
    environment: dict[str, str] = field(repr=False)
    #: The runner's own arguments, checked by `check`.
    arguments: dict[str, Any]
    allocation: Allocation
    #: The attempt's folder on the agent's machine; the caller removes it after `destroy`.
    folder: Path
    #: Folder to run in: the process runner's copy of the source.
    workdir: Path | None = None
    #: Content of read-only files, by their absolute path in the job.
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    #: Variable → path in `files`: set to the path at which the job finds that file.
    file_variables: Mapping[str, str] = field(default_factory=dict)
    #: Names of the administrator's mounts (`mounts` in the agent's configuration).
    mounts: tuple[str, ...] = ()
    #: What the queue's template sets of `arguments`; see `RunnerPort.check`.
    template: Json = field(default_factory=dict)
    #: What the launch spec's `resources` ask for, whatever was allocated.
    demand: Demand = field(default_factory=Demand)
    #: The job is an image, not built by the agent.
    brings_image: bool = False
    #: The submission set the command, not the job.
    command_overrides: bool = False
    #: Objects that run beside the job, of backends that take manifests.
    services: tuple[Json, ...] = ()
    #: Code that the backend fetches into the job, with the job's own credential.
    mounted_code: MountedCode | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a workload ended."""

    #: Of the job's first process; `None` where the backend does not know it.
    exit_code: int | None
    #: Number of the signal that ended it, if the runner can tell.
    signal: int | None = None
    #: The cause, where the exit code alone does not show it: RUN_OUT_OF_MEMORY,
    #: RUN_EVICTED, RUN_DEADLINE, PREEMPTED, DISK_FULL, LOST_*, START_*, IMAGE_*.
    cause: Cause | None = None
    #: The cause in one sentence, without a full stop.
    message: str = ""
    finished_at: datetime | None = None

    @classmethod
    def from_exit_code(cls, code: int | None, finished_at: datetime | None = None) -> "Ending":
        """By the convention of shells and engines that `128 + n` means signal `n`.

        A program may return such a code by itself; there is nothing better to go by.
        """
        number = (code or 0) - 128
        return cls(code, number if number in _SIGNALS else None, finished_at=finished_at)


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a job, of backends that have pods; for people."""

    name: str
    #: Empty until it has one.
    node: str
    #: In words: `pending`, `running`.
    state: str
    #: What its containers and the backend's warnings say, a sentence each.
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pending:
    """Started, and not running now."""

    #: What it waits for (SCHEDULE_*). Any other cause is an error that may pass: if it lasts, it is
    #: the cause with which the attempt ends.
    cause: Cause
    #: In one sentence, without a full stop.
    message: str
    #: When the backend began to wait for this, if it tells.
    since: datetime | None = None
    #: It will not run however long one waits: the caller stops it.
    permanent: bool = False
    pods: tuple[Pod, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Running:
    """It runs. The deadline counts from `since`."""

    since: datetime | None = None
    pods: tuple[Pod, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """It has ended; nothing follows."""

    ending: Ending
    pods: tuple[Pod, ...] = field(default=(), compare=False)


Progress = Pending | Running | Ended


@dataclass(frozen=True, slots=True)
class Workload:
    """A container, process or cluster job of ours, as found."""

    name: str
    #: The backend's id.
    id: str
    lease: Lease
    state: WorkloadState
    started_at: datetime | None = None
    ending: Ending | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The backend has accepted the start, now or earlier."""

    #: As found: pending, running or ended by now.
    workload: Workload
    #: An earlier call had started it.
    before: bool = False


@dataclass(frozen=True, slots=True)
class NeverStarted:
    """The start failed, and it is certain that nothing ran."""

    error: LaunchError


@dataclass(frozen=True, slots=True)
class StartUnknown:
    """It may have run, and the runner cannot find out."""

    cause: Cause
    message: str


StartResult = Started | NeverStarted | StartUnknown


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A place in a log: `skip` bytes after `mark`. The default is the beginning.

    Only the runner knows what its marks mean (a time stamp, a line's id); the caller may move
    on by bytes. Runners with plain byte offsets leave `mark` empty.
    """

    mark: str = ""
    skip: int = 0

    def after(self, count: int) -> "LogPosition":
        """`count` bytes further on (or back), not before the mark."""
        return replace(self, skip=max(0, self.skip + count))

    def to_text(self) -> str:
        """For storage."""
        return f"{self.skip}@{self.mark}"

    @classmethod
    def from_text(cls, text: str) -> "LogPosition":
        """The inverse of `to_text`."""
        skip, _, mark = text.partition("@")
        return cls(mark, int(skip))


LOG_START: Final = LogPosition()

#: See `LogPiece.missing`.
MAYBE_MISSING: Final = -1
UNKNOWN_MISSING: Final = -2


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Bytes of the merged output (stdout and stderr in order of arrival), at most 64 KiB.

    `missing` counts the bytes before it that the backend no longer has. `UNKNOWN_MISSING`: some
    are certainly gone, how many is not known. `MAYBE_MISSING`: some may be gone; `data` may be
    empty then.
    """

    #: Of the first byte.
    position: LogPosition
    data: bytes
    missing: int = 0


class RunnerPort(Protocol):
    """One backend that runs workloads; see the module's text for its guarantees."""

    #: Resource name: `local-container`, `local-process`.
    resource: str

    async def backend_id(self) -> str:
        """Stable id of the backend; agents that see the same id may adopt each other's jobs.

        Docker: the engine's `/info` ID. Processes: an id in their root folder.

        Raises:
            JobError: `LOST_ENGINE` when it does not answer.
        """

    def check(self, arguments: Json, template: Json) -> None:
        """Refuse arguments that are unknown or that the administrator does not allow.

        `template`: what the queue's template sets of them, which is trusted more than a job
        and a submitter.

        Raises:
            PolicyError: `POLICY_RESOURCE`, naming the argument.
        """

    def demand(self, arguments: dict[str, Any]) -> Demand | None:
        """What the agent must count as taken for a job with these arguments.

        `None`: the backend schedules by itself, so only the agent's job slots are counted.

        Raises:
            InvalidInputError: a size or number that cannot be read.
        """

    def preview(self, request: RunRequest) -> Json:
        """What `create` and `start` would send, without calling the backend.

        A container's body, a manifest, or argv and folder of a process. Holds secrets: the
        caller masks them.

        Raises:
            PolicyError: as `create`.
        """

    async def create(self, request: RunRequest) -> Workload:
        """Create everything that does not run, or adopt what an earlier call created.

        Raises:
            JobError: `START_FAILED`, `IMAGE_*`, `DISK_FULL`, `LOST_ENGINE`.
            PolicyError: something that this backend cannot give, or that it refused.
            FencedError: a later epoch of the attempt created it.
        """

    async def start(self, workload: Workload) -> StartResult:
        """Make it run, unless that was done before.

        Never raises for what the backend does: a refusal is `NeverStarted`, an answer that
        was lost and cannot be found out is `StartUnknown`.
        """

    async def settle(self, workload: Workload) -> StartResult:
        """Find out whether a start that an earlier process may have sent took effect.

        Sends no start, unless a repeated start is harmless because the backend starts each name
        at most once. Otherwise `StartUnknown` if the backend shows no start.
        """

    def watch(self, workload: Workload) -> AsyncIterator[Progress]:
        """Changes of a started workload, up to and including `Ended`.

        Begins with the present state; a workload that ran yields `Running` before `Ended`,
        also when it has ended by now. `Pending` comes again when its cause or message
        changes, and after `Running` where the backend runs the job again by the job's own
        arguments; `Running` comes again when its pods change. A workload that vanished ends
        with cause `LOST_WORKLOAD`.

        Raises:
            JobError: `LOST_ENGINE`: the backend stopped answering; watch again later.
        """

    async def find(self, name: str) -> Workload | None:
        """A workload by name, in any state; `None` if there is none of this control plane.

        EXITED without an ending: how it ended is not known; `watch` tells the cause.
        """

    async def owned(self) -> list[Workload]:
        """Everything that carries this control plane's label, in any state."""

    def logs(self, workload: Workload, position: LogPosition) -> AsyncGenerator[LogPiece, None]:
        """Output from `position` on; follows while it runs, ends when all has been read."""

    async def stop(self, workload: Workload, grace: float) -> None:
        """SIGTERM, at most `grace` seconds, SIGKILL."""

    async def destroy(self, workload: Workload) -> None:
        """Remove it and everything that belongs to it."""
