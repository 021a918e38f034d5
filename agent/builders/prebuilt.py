"""Ready images: references resolved to what exactly will run, by an engine or a registry."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from agent.builders.image.references import (
    NAMESPACE,
    check_registry,
    familiar,
    local_name,
    read_reference,
    verified,
)
from agent.builders.image.repository import engine_auth
from agent.docker.client import Engine
from agent.docker.errors import EngineError, EngineRefusedError, EngineUnavailableError
from agent.docker.images import EngineImages, LocalImage, Platform
from agent.model.cause import Cause
from agent.model.errors import JobError, UnavailableError
from agent.model.job.image_reference import ImageReference
from agent.model.redact import Redactor
from agent.model.units import format_size
from agent.model.work import Image
from agent.ports.builder import ImagePort
from agent.ports.log import LogSink, write_line
from agent.ports.registry import RegistryPort
from agent.ports.url import UrlPort

#: Seconds without an event of a pull.
_IDLE: Final = 120.0
#: Seconds between two lines of progress.
_REPORT_EVERY: Final = 2.0
#: Architectures that a processor runs besides its own.
_ALSO_RUNS: Final = {"amd64": {"386"}, "arm64": {"arm"}}

Pull = Literal["missing", "always-verify", "always", "never"]


class PrebuiltImages:
    """`ImagePort` over the agent's engine: pulls what the engine does not have."""

    def __init__(
        self,
        engine: Engine,
        *,
        pull: Pull,
        registry: RegistryPort,
        urls: UrlPort | None = None,
        idle: float = _IDLE,
    ) -> None:
        self._engine = engine
        self._images = EngineImages(engine)
        self._pull_when = pull
        self._registry = registry
        self._urls = urls
        self._idle = idle
        self._pulls: dict[str, _Pull] = {}
        #: As last seen; asked again before an image is refused because of it.
        self._platform: Platform | None = None

    async def resolve(self, reference: str, log: LogSink) -> Image:
        """See `ImagePort`. Equal references are pulled once at a time."""
        parsed = read_reference(reference.strip())
        if parsed.repository.startswith(NAMESPACE):
            raise _not_found(parsed, "images that an agent built are found by their source only")
        await check_registry(parsed, self._urls)
        try:
            async with self._one_at_a_time(str(parsed)):
                local, reused = await self._local_or_pulled(parsed, log)
            await self._check_platform(parsed, local)
        except EngineUnavailableError as error:
            raise UnavailableError(error.cause, error.message, hint=error.hint) from None
        except EngineError as error:
            raise JobError(Cause.IMAGE_UNAVAILABLE, error.message) from None
        image = _pinned(parsed, local, reused=reused)
        await write_line(log, f"image {parsed} is {image.reference} ({image.pinned_by})")
        return image

    async def _local_or_pulled(
        self, reference: ImageReference, log: LogSink
    ) -> tuple[LocalImage, bool]:
        local = await self._images.inspect(local_name(reference))
        fixed = reference.digest is not None
        if local is not None and self._pull_when == "always-verify":
            digest = await verified(reference, self._registry)
            if fixed or any(each.endswith(f"@{digest}") for each in local.digests):
                return local, True
            local = None
        if local is not None and (fixed or self._pull_when != "always"):
            return local, True
        if self._pull_when == "never":
            raise _not_found(reference, "it is not on the agent's machine, and `pull` is `never`")
        try:
            await self._pull(reference, log)
        except JobError as error:
            if local is None or error.cause is not Cause.IMAGE_UNAVAILABLE:
                raise
            await write_line(log, f"{error.message} Using the image that is here.")
            return local, True
        pulled = await self._images.inspect(local_name(reference))
        if pulled is None:
            raise _not_found(reference, "the engine does not have it after the pull")
        return pulled, False

    async def _pull(self, reference: ImageReference, log: LogSink) -> None:
        auth = engine_auth(await self._registry.credentials(reference.repository))
        await write_line(log, f"pulling {reference}")
        progress = _PullProgress(log)
        query = {"fromImage": reference.repository, "tag": reference.pulled_as}
        stream = self._engine.events("/images/create", query, auth=auth, idle=self._idle)
        try:
            async with aclosing(stream) as events:
                async for event in events:
                    if "error" in event:
                        raise _pull_error(reference, str(event["error"]))
                    await progress.take(event)
        except EngineRefusedError as error:
            raise _pull_error(reference, error.reason) from None
        except TimeoutError:
            raise JobError(
                Cause.IMAGE_UNAVAILABLE,
                f"Image '{reference}': the registry sent nothing for {self._idle:g} s.",
            ) from None

    async def _check_platform(self, reference: ImageReference, local: LocalImage) -> None:
        if self._platform is not None and _runs_on(local, self._platform):
            return
        engine = self._platform = await self._images.platform()
        if not _runs_on(local, engine):
            image = f"{local.os}/{local.architecture}"
            raise _wrong_platform(reference, image, str(engine))

    @asynccontextmanager
    async def _one_at_a_time(self, key: str) -> AsyncIterator[None]:
        """Per reference: the second call then finds what the first one pulled."""
        pull = self._pulls.setdefault(key, _Pull())
        pull.users += 1
        try:
            async with pull.lock:
                yield
        finally:
            pull.users -= 1
            if not pull.users:
                self._pulls.pop(key, None)


class RegistryImages:
    """`ImagePort` for a cluster, whose nodes pull: pins references by the registry."""

    def __init__(self, registry: RegistryPort, urls: UrlPort | None) -> None:
        self._registry = registry
        self._urls = urls

    async def resolve(self, reference: str, log: LogSink) -> Image:
        """See `ImagePort`.

        Nodes may have logins and mirrors that this agent has not: what its registry does not
        show to the agent is left to them as it is.
        """
        parsed = read_reference(reference.strip())
        await check_registry(parsed, self._urls)
        name = str(parsed)
        try:
            digest = await self._registry.exists(name)
        except JobError as error:
            await write_line(log, f"image {name} is not pinned, its nodes pull it: {error.message}")
            return Image(reference.strip(), "tag", reused=True, name=name)
        if digest is None:
            raise _not_found(parsed, "its registry does not have it")
        image = Image(f"{parsed.repository}@{digest}", "digest", reused=True, name=name)
        await write_line(log, f"image {name} is {image.reference} ({image.pinned_by})")
        return image


def only_signed(images: ImagePort, registry: RegistryPort, keys: Sequence[Path]) -> ImagePort:
    """With files of keys: only those of the images that one of these keys has signed. Blocks.

    Raises:
        ConfigError: a key cannot be read.
    """
    if not keys:
        return images
    from agent.builders.signatures import SignedImages, read_keys

    return SignedImages(images, registry, read_keys(keys))


def _runs_on(local: LocalImage, engine: Platform) -> bool:
    runs = {engine.architecture} | _ALSO_RUNS.get(engine.architecture, set())
    return local.os == engine.os and local.architecture in runs


@dataclass
class _Pull:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class _PullProgress:
    """Turns the engine's hundreds of events into a line every two seconds."""

    def __init__(self, log: LogSink) -> None:
        self._log = log
        self._layers: dict[str, tuple[int, int]] = {}
        self._done: set[str] = set()
        self._next = asyncio.get_running_loop().time() + _REPORT_EVERY

    async def take(self, event: Mapping[str, Any]) -> None:
        status, layer = str(event.get("status", "")), str(event.get("id", ""))
        detail = event.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._layers[layer] = (detail["current"], detail["total"])
        elif status in {"Pull complete", "Already exists"}:
            self._done.add(layer)
        elif not layer:
            await write_line(self._log, status)
        now = asyncio.get_running_loop().time()
        if now >= self._next:
            self._next = now + _REPORT_EVERY
            await write_line(self._log, self._summary())

    def _summary(self) -> str:
        current = sum(now for now, _ in self._layers.values())
        total = sum(whole for _, whole in self._layers.values())
        return f"{len(self._done)} layers done, {format_size(current)} of {format_size(total)}"


def _pinned(reference: ImageReference, local: LocalImage, *, reused: bool) -> Image:
    """By the registry's digest if it came from there, else by its id."""
    name = str(reference)
    if reference.digest is not None:
        return Image(f"{familiar(reference)}@{reference.digest}", "digest", reused, name)
    for digest in local.digests:
        if digest.startswith(f"{familiar(reference)}@"):
            return Image(digest, "digest", reused, name)
    return Image(local.id, "image-id", reused, name)


#: Patterns of the engine's and the registries' messages; the first that matches counts.
_PULL_ERRORS: Final = (
    (r"no space left on device", Cause.DISK_FULL, "no space is left on the agent's disk"),
    (
        r"no matching manifest for (\S+)|does not match the specified platform",
        Cause.IMAGE_PLATFORM,
        "it does not exist for this machine's platform",
    ),
    (
        r"may require|manifest unknown|not found|name unknown|does not exist",
        Cause.IMAGE_NOT_FOUND,
        "its registry does not have it, or shows it only after a login",
    ),
    (
        r"unauthorized|authentication required|no basic auth|denied|401|403",
        Cause.IMAGE_AUTH,
        "its registry wants a login",
    ),
    (r"", Cause.IMAGE_UNAVAILABLE, "it cannot be pulled"),
)  # fmt: skip


def _pull_error(reference: ImageReference, message: str) -> JobError:
    cause, sentence = next(
        (cause, sentence)
        for pattern, cause, sentence in _PULL_ERRORS
        if re.search(pattern, message, re.IGNORECASE)
    )
    shown = Redactor().text(message.strip().rstrip("."))
    hint = "Log the agent's machine in with `docker login`." if cause is Cause.IMAGE_AUTH else None
    return JobError(
        cause, f"Image '{reference}': {sentence} (the engine reports: {shown}).", hint=hint
    )


def _wrong_platform(reference: ImageReference, image: str, machine: str) -> JobError:
    return JobError(
        Cause.IMAGE_PLATFORM,
        f"Image '{reference}' is for {image}, and the agent's machine is {machine}.",
        hint=f"Build it for {machine}, or send the job to an agent on such a machine.",
    )


def _not_found(reference: ImageReference, why: str) -> JobError:
    return JobError(Cause.IMAGE_NOT_FOUND, f"Image '{reference}' cannot be used: {why}.")
