"""The repository that images are pushed to: found there by their key, named by their digest."""

import hashlib
import re
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from agent.builders.docker.credentials import ANONYMOUS, engine_auth
from agent.builders.docker.plan import Plan, launch_context
from agent.docker.client import Engine
from agent.docker.errors import EngineRefusedError
from agent.docker.images import EngineImages
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.work import Image
from agent.ports.builder import BuildRequest
from agent.ports.log import LogSink, say
from agent.ports.registry import RegistryPort

_IDLE: Final = 300.0
#: Hex digits of a key in a tag: a registry is shared, so that a tag alone must tell.
_TAG: Final = 40
#: The containerd store tells the digest in words only.
_WORDS: Final = re.compile(r"digest: (sha256:[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class ImageRepository:
    """One repository in one registry."""

    #: With its host, without tag and digest.
    name: str
    registry: RegistryPort

    def reference(self, key: str) -> str:
        """Where the image of a key lies."""
        return f"{self.name}:{key[:_TAG]}"

    def cache(self, request: BuildRequest, plan: Plan) -> str:
        """Where its build cache lies: one for all code with the same recipe and packages.

        Entities never share one: what a build of theirs left there would run in others.
        """
        entity = request.title.partition("/")[0]
        if plan.own is not None:
            recipe = plan.own.read_text(encoding="utf-8", errors="replace")
        else:
            texts = launch_context(plan.generated) if plan.generated is not None else {}
            recipe = repr((plan.bases, sorted(texts.items())))
        digest = hashlib.sha256(f"{entity}\0{recipe}".encode("utf-8", "replace")).hexdigest()
        return f"{self.name}:launch-cache-{digest[:_TAG]}"

    async def find(self, key: str) -> Image | None:
        """The image of a key in the registry, by its digest.

        Raises:
            JobError: `IMAGE_AUTH`, `IMAGE_UNAVAILABLE`.
        """
        digest = await self.registry.exists(self.reference(key))
        if digest is None:
            return None
        return self.image(digest, key, reused=True)

    def image(self, digest: str, key: str, *, reused: bool) -> Image:
        """An image that the registry has, and the engine perhaps not."""
        reference = f"{self.name}@{digest}"
        return Image(reference, "digest", reused, self.reference(key), here=False)

    async def push(self, images: EngineImages, image_id: str, key: str, log: LogSink) -> str:
        """Push an image of the engine; give the digest that the registry has it under.

        Raises:
            JobError: `BUILD_FAILED`, with the registry's words; `IMAGE_AUTH`.
            EngineUnavailableError: the engine went away.
        """
        auth = engine_auth(await self.registry.credentials(self.name))
        reference = self.reference(key)
        tag = reference.rpartition(":")[2]
        await say(log, f"pushing to {reference}")
        try:
            await images.tag(image_id, self.name, tag)
            digest = await self._follow(images.engine, tag, auth)
        except EngineRefusedError as error:
            raise self.failed(error.reason) from None
        except TimeoutError:
            raise self.failed(f"no progress for {_IDLE:g} s") from None
        if digest is None:
            raise self.failed("the registry told no digest")
        return digest

    async def _follow(self, engine: Engine, tag: str, auth: str | None) -> str | None:
        path = f"/images/{self.name}/push"
        # Without a login the engine still wants the header.
        stream = engine.events(path, {"tag": tag}, auth=auth or ANONYMOUS, idle=_IDLE)
        digest: str | None = None
        async with aclosing(stream) as events:
            async for event in events:
                if "error" in event:
                    raise self.failed(str(event["error"]))
                digest = _digest(event) or digest
        return digest

    def failed(self, why: str) -> JobError:
        """The registry did not take it."""
        return JobError(
            Cause.BUILD_FAILED,
            f"The image cannot be pushed to {self.name}: {why.rstrip('.')}.",
            hint="Check `builder.destination` and log the agent's machine in with `docker login`.",
        )


def _digest(event: dict[str, Any]) -> str | None:
    aux = event.get("aux")
    if isinstance(aux, dict) and "Digest" in aux:
        return str(aux["Digest"])
    match = _WORDS.search(str(event.get("status", "")))
    return match[1] if match else None
