"""What attempts work with; made once per process, shared, never changed."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from agent.config.execution import JobSecret, MountConfig
from agent.model.outcome import Outcome
from agent.model.spec import ArtifactSource, GitSource
from agent.pipeline.build import Builds
from agent.pipeline.record import Record
from agent.ports.artifact import ArtifactPort
from agent.ports.builder import BuilderPort, ImagePort
from agent.ports.queue import QueuePort
from agent.ports.runner import RunnerPort
from agent.ports.source import SourcePort

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Backend:
    """One resource: how its jobs are built and run."""

    runner: RunnerPort
    #: `None`: sources cannot be built here, ready images can be run.
    builder: BuilderPort | None
    #: `None`: this resource runs no images.
    images: ImagePort | None
    #: Address by which its jobs reach the control plane.
    job_url: str


@dataclass(frozen=True, slots=True)
class Sources:
    """One port for each kind of source that has files, and where jobs are read."""

    git: SourcePort[GitSource]
    #: `None`: this agent reads no artifacts, hence no stored jobs.
    artifact: SourcePort[ArtifactSource] | None = None
    jobs: ArtifactPort | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient an attempt is; seconds."""

    #: Between SIGTERM and SIGKILL when a job is stopped.
    grace: float = 60.0
    #: An engine that went away under a job may come back within this time.
    engine: float = 30.0
    #: A log that yields nothing for so long after its job ended is given up.
    log_stall: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """What looking a job up needs, whether or not it is going to run."""

    sources: Sources
    executor: Executor

    async def in_thread(
        self,
        work: Callable[Given, Result],
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Result:
        """Run something that blocks in the bounded pool."""
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.executor, call)


@dataclass(frozen=True, kw_only=True)
class Equipment(Workbench):
    """Everything that is not the attempt's own."""

    queue: QueuePort
    backends: Mapping[str, Backend]
    builds: Builds
    record: Record
    control_plane_id: str
    #: Parent of the attempts' folders.
    attempts_dir: Path
    secrets: Mapping[str, JobSecret] = field(default_factory=dict, repr=False)
    mounts: Mapping[str, MountConfig] = field(default_factory=dict)
    limits: Limits = Limits()
    #: Told every outcome, for metrics.
    observe: Callable[[Outcome], None] = lambda _: None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
