"""What attempts work with: `Backend`s, dependencies that all share, the context of one attempt."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from agent.config.execution import JobSecret, MountConfig, PendingTimeouts
from agent.model.phase import Outcome
from agent.model.redact import Redactor
from agent.model.spec import ArtifactSource, GitSource, Json
from agent.model.work import Claim, Lease
from agent.pipeline.build import Builds
from agent.pipeline.cancellation import Cancellation
from agent.pipeline.release_rules import BackendState, Releases
from agent.pipeline.report import Report
from agent.pipeline.until_answered import retry_until_answered
from agent.ports.artifact import ArtifactPort
from agent.ports.builder import BuilderPort, ImagePort
from agent.ports.journal import AttemptJournal
from agent.ports.log import LogSink
from agent.ports.queue import QueuePort
from agent.ports.runner import RunnerPort, RunRequest
from agent.ports.source import SourcePort
from agent.system.backoff import Sleep

#: Failures of the control plane's own, in a row, before an attempt releases its item.
_MAX_SERVER_FAILURES: Final = 6

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Backend:
    """One resource: how its jobs are built and run."""

    runner: RunnerPort
    #: `None`: sources cannot be built here; existing images can be run.
    builder: BuilderPort | None
    #: `None`: this resource runs no images.
    images: ImagePort | None
    #: Address by which its jobs reach the control plane.
    job_url: str
    #: Address of its pages for people, where it is another one than `job_url`.
    page_url: str | None = None
    #: Pulls what the builder has pushed, which needs no signature; `None`: nodes pull it, or this
    #: resource runs no images.
    puller: ImagePort | None = None
    #: The runner's arguments are a manifest: they have the form of its preview.
    takes_manifest: bool = False
    #: The backend can fetch a job's code into its base image (`RunRequest.mounted_code`).
    mounts_code: bool = False
    #: The manifests of what runs beside the workload of a request; `None`: nothing can.
    side_services: Callable[[RunRequest], Sequence[Json]] | None = None
    #: What the backend's own server would make of the workload and of each side service, in this
    #: order, without making them; `None`: it has no such call.
    dry_run: Callable[[RunRequest], Awaitable[Sequence[Json]]] | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """One port for each kind of source that has files, and one that reads stored jobs."""

    git: SourcePort[GitSource]
    #: Applies an author's uncommitted changes to a fetched tree: root, patch, log.
    apply_patch: Callable[[Path, Path, LogSink], Awaitable[None]]
    #: `None`: this agent cannot read artifacts, hence no stored jobs.
    artifact: SourcePort[ArtifactSource] | None = None
    jobs: ArtifactPort | None = None


@dataclass(frozen=True, slots=True)
class AttemptTimeouts:
    """Time limits of an attempt, in seconds."""

    #: Between SIGTERM and SIGKILL when a job is stopped.
    grace: float = 60.0
    #: For each reason to be pending, on backends that queue.
    pending: PendingTimeouts = field(default_factory=PendingTimeouts)
    #: For an engine that stopped answering under a job to come back.
    engine: float = 30.0
    #: Without progress of a log after its job ended, before the rest is given up.
    log_stall: float = 30.0


@dataclass(frozen=True, kw_only=True)
class ResolveDependencies:
    """What resolving a job needs, for a run and for a preview."""

    sources: Sources
    executor: Executor
    #: What the administrator gives to queues, by name; `None`: not known on this machine.
    secrets: Mapping[str, JobSecret] | None = field(default=None, repr=False)
    mounts: Mapping[str, MountConfig] | None = None

    async def run_blocking(
        self,
        work: Callable[Given, Result],
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Result:
        """Run something that blocks in the bounded pool."""
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.executor, call)

    async def answered(self, call: Callable[[], Awaitable[Result]], what: str) -> Result:
        """The result of an idempotent call to the control plane; a preview calls it once."""
        del what
        return await call()


@dataclass(frozen=True, kw_only=True)
class Dependencies(ResolveDependencies):
    """Made once per process, shared by all attempts, never changed."""

    queue: QueuePort
    backends: Mapping[str, Backend]
    builds: Builds
    journal: AttemptJournal
    backend_state: BackendState
    control_plane_id: str
    #: Parent of the attempts' folders.
    attempts_dir: Path
    secrets: Mapping[str, JobSecret] = field(default_factory=dict, repr=False)
    mounts: Mapping[str, MountConfig] = field(default_factory=dict)
    #: Knows the secrets of the agent's configuration.
    redactor: Redactor = field(default_factory=Redactor, repr=False)
    limits: AttemptTimeouts = AttemptTimeouts()
    #: Called with every outcome, for metrics.
    observe: Callable[[Outcome], None] = lambda _: None
    sleep: Sleep = asyncio.sleep

    async def answered(self, call: Callable[[], Awaitable[Result]], what: str) -> Result:
        """The result of an idempotent call, repeated while the control plane cannot be reached.

        An attempt whose lease is lost meanwhile is cancelled.
        """
        return await retry_until_answered(call, what, self.sleep, max_failures=_MAX_SERVER_FAILURES)


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """One attempt: what it is about, and what it works with. Passed from stage to stage."""

    claim: Claim
    #: Of its workload and its folder.
    name: str
    backend: Backend
    dependencies: Dependencies
    cancellation: Cancellation
    report: Report
    #: The attempt's own; exists while the attempt does.
    folder: Path
    #: Frees the allocation, as soon as the workload has ended; may be called twice.
    free_allocation: Callable[[], None]
    #: Called once the workload was started, or has ended.
    mark_prepared: Callable[[], None]
    #: How often this process released the item in this attempt.
    releases: Releases

    @property
    def lease(self) -> Lease:
        """The lease under which it is reported."""
        return self.claim.lease
