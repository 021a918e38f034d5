"""How a job runs.

Life cycle of one attempt
-------------------------
`check` the resource arguments (no side effect) → `create` → *the caller obtains the start
permit* → `start` → `logs` and `wait`, concurrently → `destroy`, after the control plane has
acknowledged the outcome. `stop` may come at any time after `create`.

Promises every runner keeps, and the conformance suite proves:

- The name is the fence. `create` with a name that exists looks at the labels: ours (same
  control plane, item and attempt) is adopted and returned as found; foreign is refused.
  What an earlier epoch created and never started is replaced, since its token, devices and
  arguments were those of a grant that was lost; what a later epoch made is not ours.
- `start` starts only what never started. Asked for anything that has a start time it
  raises `AlreadyStartedError`, because starting an exited container again would run the
  job twice. A start whose answer was cut is never repeated blindly: inspect first.
- Nothing restarts by itself and nothing is removed by itself.
- A workload outlives the agent: a new process finds it with `owned`, with its log from the
  first byte and its exit status.
- `stop` and `destroy` are legal twice and without a start. After `stop(grace)` the whole
  job is dead: SIGTERM, at most `grace` seconds, SIGKILL, children included.
- Cancelling a call of ours never harms the workload.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from agent.model.capacity import Allocation
from agent.model.errors import LaunchError
from agent.model.work import Image, Lease


class AlreadyStartedError(LaunchError):
    """It has a start time: running it again would be a second run."""

    code = "ALREADY_STARTED"


class WorkloadState(StrEnum):
    """As the engine sees it."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the host that the administrator offers by name."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class RunRequest:
    """All that is needed to create a workload."""

    lease: Lease
    #: Deterministic, see `agent.model.names`.
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
    #: Folder to run in: the process runner's copy of the source.
    workdir: Path | None = None
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a workload ended."""

    exit_code: int | None
    out_of_memory: bool = False
    #: Number of the signal that ended it, if the runner can tell.
    signal: int | None = None
    #: The engine's own words, for starts that fail late.
    error: str | None = None
    finished_at: datetime | None = None
    #: A folder of the job whose disk had no room left, if the runner looks after its disk.
    full_disk: Path | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """A container or process of ours, as found."""

    name: str
    #: The engine's id.
    id: str
    lease: Lease
    state: WorkloadState
    started_at: datetime | None = None
    ending: Ending | None = None


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Bytes at an offset of the merged output (stdout and stderr in order of arrival).

    `missing` counts bytes before it that the engine no longer has; 1 where it is certain that
    some are gone and not how many. Offsets go on from there as if the count were right.
    """

    offset: int
    data: bytes
    missing: int = 0


class RunnerPort(Protocol):
    """One backend that runs workloads; see the module's text for its promises."""

    #: Resource name: `local-container`, `local-process`.
    resource: str

    async def backend_id(self) -> str:
        """Stable id of the engine (docker's `/info` ID; a machine id for processes).

        Raises:
            JobError: `LOST_ENGINE` when it does not answer.
        """

    def check(self, arguments: dict[str, Any]) -> None:
        """Refuse arguments that are unknown or that the administrator does not allow.

        Raises:
            PolicyError: `POLICY_RESOURCE`, naming the argument.
        """

    async def create(self, request: RunRequest) -> Workload:
        """Create, or adopt what an earlier try created under this name.

        Raises:
            JobError: `START_FAILED`, `IMAGE_*`, `DISK_FULL`, `LOST_ENGINE`.
            PolicyError: something that this backend cannot give, or that the engine refused.
            FencedError: it was made for a later epoch of the attempt.
        """

    async def start(self, workload: Workload) -> Workload:
        """Start what never started.

        Raises:
            AlreadyStartedError: it has a start time.
            JobError: `START_ENTRYPOINT`, `START_FAILED`, `LOST_ENGINE`.
        """

    async def find(self, name: str) -> Workload | None:
        """Look one up by name, in any state; what is not this control plane's is not found.

        EXITED without an ending: how it ended is not known; `wait` raises accordingly.
        """

    async def owned(self) -> list[Workload]:
        """Everything that carries this control plane's label, in any state."""

    def logs(self, workload: Workload, offset: int) -> AsyncIterator[LogPiece]:
        """Output from `offset` on; follows while it runs, ends when all has been read."""

    async def wait(self, workload: Workload) -> Ending:
        """Wait until it ended.

        Raises:
            JobError: `LOST_WORKLOAD` when it vanished, `LOST_ENGINE` when the engine did or
                took it along, `START_ENTRYPOINT` and `IMAGE_PLATFORM` when the backend learns
                only after the start that the command cannot run.
        """

    async def stop(self, workload: Workload, grace: float) -> None:
        """SIGTERM, at most `grace` seconds, SIGKILL."""

    async def destroy(self, workload: Workload) -> None:
        """Remove it and everything that belongs to it."""
