"""How a source becomes an image or an environment.

`pipeline.build` has the policy: it asks for the `key`, calls `find`, and calls `build` only
when nothing was found, once per key at a time. Builders have the mechanism.

`key` is a hash over everything that decides the content: files of the context as the
builder would send them, the Dockerfile, base image, platform, requirements, and the
builder's own version; equal keys may share a result across attempts, projects and agents of
one entity.
`find` is quick and never pulls. `build` writes its progress to `log` while it works, may be
cancelled at any await (the child process ends with it) and then leaves nothing that `find`
would return. `prune` removes what is older or larger than allowed, and never what
a container or process uses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.model.work import Image
from agent.ports.log import LogSink


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """One thing to build; `context` is absolute and inside the source's folder."""

    #: Root of the source.
    root: Path
    context: Path
    #: Absolute, inside the context; `None` means generate one.
    dockerfile: Path | None
    base_image: str | None
    #: `3.11`; `None` takes the builder's default.
    python: str | None
    #: What the job runs, for generated Dockerfiles.
    command: tuple[str, ...]
    #: Uid of the job's user in generated images.
    user_id: int
    #: For display: `entity/project/name`.
    title: str
    #: Whose job it is: builds of different entities share no result and no cache.
    entity: str
    #: `entity/queue`: decides which build secrets it gets.
    queue: str
    labels: dict[str, str]
    #: The base image is an accelerator's: Python is installed in it if it has none.
    accelerated: bool = False


@dataclass(frozen=True, slots=True)
class BuildPreview:
    """What `build` would do with a request, decided without an engine or registry."""

    #: Text of the Dockerfile; `None` where no image is built.
    dockerfile: str | None = None
    #: The job's own Dockerfile, relative to the build context; `None` when it is generated.
    own_dockerfile: str | None = None
    #: File of the source that the packages come from.
    requirements: str | None = None
    #: Base image of a generated Dockerfile.
    base_image: str | None = None
    #: The agent's configuration chose the base image.
    base_image_configured: bool = False
    #: Sentences for the item's warnings, shown for reused results too.
    warnings: tuple[str, ...] = ()


class BuilderPort(Protocol):
    """One way to build."""

    #: Name in configuration and messages.
    name: str

    async def preview(self, request: BuildRequest) -> BuildPreview:
        """What would be built; reads the source and calls no engine.

        Raises:
            JobError: `SOURCE_INVALID`, as `key`.
        """

    async def key(self, request: BuildRequest) -> str:
        """Content key, lower-case hex.

        Raises:
            JobError: `SOURCE_INVALID`, naming a file that cannot be used.
        """

    async def find(self, key: str) -> Image | None:
        """An existing result for the key; its use is recorded, for pruning."""

    async def build(self, request: BuildRequest, key: str, log: LogSink) -> Image:
        """Build.

        Raises:
            JobError: `BUILD_*` or `DISK_FULL`, with the step or package that failed and
                the last lines of output.
        """

    async def check(self) -> None:
        """Ask what builds, and the registry that results are pushed to, whether they answer.

        Called after failures only. The runner's own engine is asked by the caller.

        Raises:
            UnavailableError: one does not; the message says which.
        """

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """Remove old results (age in seconds); return bytes freed, as far as known."""


class ImagePort(Protocol):
    """Existing images, for jobs that name one."""

    async def resolve(self, reference: str, log: LogSink) -> Image:
        """Pin a reference to a digest and make the image available to the runner.

        `runners.local-container.pull` decides whether a local image is taken: `missing` and
        `never` take it, and `never` pulls none; `always-verify` takes it only if the registry
        shows this agent the same digest; `always` only for a digest, or if the pull fails with
        `IMAGE_UNAVAILABLE`.

        Raises:
            JobError: `IMAGE_NOT_FOUND`, `IMAGE_AUTH`, `IMAGE_PLATFORM`, `IMAGE_UNAVAILABLE`.
        """
