"""Resolved → Image: reused if one exists for the content key, else built, once per key."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.model.units import format_duration
from agent.model.work import Claim, Image, Resolved
from agent.ports.builder import BuilderPort, BuildRequest, ImagePort
from agent.ports.log import LogSink, write_line

#: W&B's default for `docker.user_id`.
_USER_ID: Final = 1000
#: W&B's marker; their builds and ours print it for frozen requirements that were left out.
_FAILED: Final = re.compile(
    rb"ERROR: Failed to install: (?P<names>[^\n]*?)\. During automated build process\."
)
_MAX_LINE_BYTES: Final = 64 * 1024


class Builds:
    """Builds of this process: one per key at a time, at most `concurrency`, each with a timeout.

    `timeout` is in seconds.
    """

    def __init__(self, *, timeout: float, concurrency: int) -> None:
        self._timeout = timeout
        self._slots = asyncio.Semaphore(concurrency)
        self._running: dict[tuple[str, str], _Build] = {}

    async def image(
        self,
        resolved: Resolved,
        builder: BuilderPort | None,
        images: ImagePort | None,
        log: LogSink,
        puller: ImagePort | None = None,
    ) -> Image:
        """The image that the job will run. `puller`: see `Backend`.

        Raises:
            JobError: `BUILD_*`, `IMAGE_*`, `SOURCE_INVALID`, `DISK_FULL`.
        """
        if resolved.image is not None and images is not None:
            return await images.resolve(resolved.image, log)
        if builder is None:
            message = "This agent has no builder, and the job names no image."
            hint = "Set `builder.type` on the agent, or submit with --docker-image."
            raise JobError(Cause.BUILD_UNAVAILABLE, message, hint=hint)
        request = build_request(resolved)
        key = await builder.key(request)
        found = await builder.find(key)
        if found is not None:
            await write_line(log, f"nothing to build: {found.name or found.reference} exists")
            image = replace(found, reused=True)
        else:
            image = await self._once(builder, request, key, log)
        image = replace(image, warnings=(await builder.preview(request)).warnings)
        if puller is None or not image.needs_pull:
            return image
        # Only the registry has it: pull it by digest. `find` again: it records the use of the
        # pulled image.
        await puller.resolve(image.reference, log)
        await builder.find(key)
        return replace(image, needs_pull=False)

    async def _once(
        self, builder: BuilderPort, request: BuildRequest, key: str, log: LogSink
    ) -> Image:
        """Join the build of this key, or begin it; it is cancelled with its last subscriber."""
        slot = (builder.name, key)
        build = self._running.get(slot)
        if build is None:
            build = _Build(lambda sink: self._build(builder, request, key, sink))
            self._running[slot] = build
            build.task.add_done_callback(lambda _: self._running.pop(slot, None))
        else:
            await write_line(log, "another job builds the same content; waiting for its image")
        async with build.subscribed(log):
            return await asyncio.shield(build.task)

    async def _build(
        self, builder: BuilderPort, request: BuildRequest, key: str, log: LogSink
    ) -> Image:
        async with self._slots:
            try:
                async with asyncio.timeout(self._timeout):
                    return await builder.build(request, key, log)
            except TimeoutError as error:
                allowed = format_duration(self._timeout)
                message = f"The build of {request.title} took longer than {allowed}."
                raise JobError(Cause.BUILD_TIMEOUT, message) from error


class _Build:
    """A running build and the logs of the jobs that wait for it.

    Stopping one job must not cancel the build for the others; the last one cancels it.
    """

    def __init__(self, work: Callable[[LogSink], Coroutine[Any, Any, Image]]) -> None:
        self._subscribers: list[LogSink] = []
        self.task = asyncio.create_task(work(self), name="build")

    async def write(self, data: bytes) -> None:
        for subscriber in tuple(self._subscribers):
            await subscriber.write(data)

    @asynccontextmanager
    async def subscribed(self, log: LogSink) -> AsyncIterator[None]:
        self._subscribers.append(log)
        try:
            yield
        finally:
            self._subscribers.remove(log)
            if not self._subscribers and not self.task.done():
                self.task.cancel()
                await asyncio.wait({self.task})


def build_request(resolved: Resolved) -> BuildRequest:
    """The request to a builder; only for sources with files."""
    if resolved.tree is None:
        message = "The job names an image, and this resource runs none."
        raise PolicyError(Cause.POLICY_SPEC, message)
    claim = resolved.claim
    context = resolved.tree.root / resolved.build_context
    user = claim.spec.docker.user_id
    return BuildRequest(
        root=resolved.tree.root,
        context=context,
        dockerfile=context / resolved.dockerfile if resolved.dockerfile else None,
        base_image=resolved.base_image,
        python=resolved.python,
        command=resolved.command,
        user_id=_USER_ID if user is None else user,
        title=_title(claim),
        entity=claim.entity,
        queue=f"{claim.entity}/{claim.queue}",
        labels={},
        accelerated=resolved.accelerated,
    )


def _title(claim: Claim) -> str:
    """What the image is named after: the job, as with W&B's agent, else the run."""
    if claim.spec.job:
        return claim.spec.job.partition(":")[0]
    return "/".join(part for part in (claim.entity, claim.project, claim.name) if part)


class BuildFindings:
    """A log sink that forwards everything and collects packages that could not be installed."""

    def __init__(self, log: LogSink) -> None:
        self._log = log
        self._rest = b""
        self._missing: dict[str, None] = {}

    async def write(self, data: bytes) -> None:
        """Forward, and scan whole lines."""
        await self._log.write(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_MAX_LINE_BYTES:]
        for line in lines:
            self._scan(line)

    @property
    def warning(self) -> str | None:
        """A warning for the item: the packages that the job runs without."""
        self._scan(self._rest)
        if not self._missing:
            return None
        names = ", ".join(self._missing)
        return f"build: frozen requirements that could not be installed: {names}"

    def _scan(self, line: bytes) -> None:
        found = _FAILED.search(line)
        if found is not None and b"${" not in found["names"]:
            names = found["names"].decode("utf-8", "replace").split(", ")
            self._missing |= dict.fromkeys(name.strip() for name in names)
