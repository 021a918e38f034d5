"""The repository that images are pushed to: found by content key, referred to by digest."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.builders.image.plan import Plan, launch_context
from agent.docker.client import Engine
from agent.docker.errors import EngineRefusedError
from agent.docker.images import EngineImages
from agent.model.cause import Cause
from agent.model.errors import JobError, UnavailableError
from agent.model.work import Image
from agent.ports.builder import BuildRequest
from agent.ports.log import LogSink, write_line
from agent.ports.registry import Credentials, RegistryPort

#: Seconds without an event of a push.
_IDLE: Final = 300.0
#: Hex digits of a key in a tag. A registry is shared, so that the tag alone must identify it.
_PUSHED_TAG_DIGITS: Final = 40
#: The containerd store reports the digest in a sentence only.
_PUSHED: Final = re.compile(r"digest: (sha256:[0-9a-f]{64})")
#: `X-Registry-Auth` without a login: an empty object. The engine wants the header.
_ANONYMOUS: Final = "e30="


@dataclass(frozen=True, slots=True)
class ImageRepository:
    """One repository in one registry."""

    #: With its host, without tag and digest.
    name: str
    registry: RegistryPort

    def reference(self, key: str) -> str:
        """Tag of the image of a key."""
        return f"{self.name}:{key[:_PUSHED_TAG_DIGITS]}"

    def cache_reference(self, request: BuildRequest, plan: Plan) -> str:
        """Tag of the build cache: one for all code with the same recipe and packages.

        Entities never share one: what a build of one leaves there would run in others'.
        """
        if plan.job_dockerfile is not None:
            recipe = plan.job_dockerfile.read_text(encoding="utf-8", errors="replace")
        else:
            recipe = repr((plan.bases, sorted(launch_context(plan).items())))
        digest = hashlib.sha256(
            f"{request.entity}\0{recipe}".encode("utf-8", "replace")
        ).hexdigest()
        return f"{self.name}:launch-cache-{digest[:_PUSHED_TAG_DIGITS]}"

    async def find(self, key: str) -> Image | None:
        """The image of a key in the registry.

        Raises:
            JobError: `IMAGE_AUTH`.
            UnavailableError: the registry does not answer as one.
        """
        digest = await self._exists(key)
        return None if digest is None else self.image(digest, key, reused=True)

    async def check(self) -> None:
        """Ask the registry for an image that it does not have.

        Raises:
            UnavailableError: it does not answer as a registry.
        """
        try:
            await self._exists("launch-probe")
        except UnavailableError:
            raise
        except JobError:
            pass  # it answers, and refuses the login

    async def _exists(self, key: str) -> str | None:
        try:
            return await self.registry.exists(self.reference(key))
        except JobError as error:
            if error.cause is not Cause.IMAGE_UNAVAILABLE:
                raise
            raise UnavailableError(error.cause, error.message, hint=error.hint) from None

    def image(self, digest: str, key: str, *, reused: bool) -> Image:
        """An image that the registry has."""
        reference = f"{self.name}@{digest}"
        return Image(reference, "digest", reused, self.reference(key))

    async def push(self, images: EngineImages, image_id: str, key: str, log: LogSink) -> str:
        """Push an image of the engine; return its digest in the registry.

        Raises:
            JobError: `BUILD_PUSH`, with the registry's message; `IMAGE_AUTH`.
            EngineUnavailableError: the engine does not answer.
        """
        auth = engine_auth(await self.registry.credentials(self.name))
        reference = self.reference(key)
        tag = reference.rpartition(":")[2]
        await write_line(log, f"pushing to {reference}")
        try:
            await images.tag(image_id, self.name, tag)
            digest = await self._push(images.engine, tag, auth)
        except EngineRefusedError as error:
            raise self.failed(error.reason) from None
        except TimeoutError:
            raise self.failed(f"no progress for {_IDLE:g} s") from None
        if digest is None:
            raise self.failed("the registry returned no digest")
        return digest

    async def _push(self, engine: Engine, tag: str, auth: str | None) -> str | None:
        path = f"/images/{self.name}/push"
        stream = engine.events(path, {"tag": tag}, auth=auth or _ANONYMOUS, idle=_IDLE)
        digest: str | None = None
        async with aclosing(stream) as events:
            async for event in events:
                if "error" in event:
                    raise self.failed(str(event["error"]))
                digest = _digest(event) or digest
        return digest

    def failed(self, why: str) -> JobError:
        """The error of a push."""
        return JobError(
            Cause.BUILD_PUSH,
            f"The image cannot be pushed to {self.name}: {why.rstrip('.')}.",
            hint="Check `builder.destination` and log the agent's machine in with `docker login`.",
        )


def engine_auth(login: Credentials | None) -> str | None:
    """The engine's `X-Registry-Auth` header; `None` without a login."""
    if login is None:
        return None
    body = {"serveraddress": login.server}
    if login.identity_token:
        body["identitytoken"] = login.identity_token
    else:
        body |= {"username": login.username, "password": login.password}
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode()


def write_docker_config(folder: Path, login: Credentials, environment: Mapping[str, str]) -> None:
    """A configuration of the docker program for one build, with `login` added. Blocks.

    A credential helper would be asked instead of the file, hence none for this registry.
    """
    home = environment.get("HOME") or Path.home()
    own = Path(environment.get("DOCKER_CONFIG") or Path(home, ".docker"))
    config = _docker_config(own)
    entry = {"identitytoken": login.identity_token}
    if not login.identity_token:
        pair = f"{login.username}:{login.password}".encode()
        entry = {"auth": base64.b64encode(pair).decode()}
    config["auths"] = {**(config.get("auths") or {}), login.server: entry}
    config["credHelpers"] = {**(config.get("credHelpers") or {}), login.server: ""}
    plugins = [*(config.get("cliPluginsExtraDirs") or []), str(own / "cli-plugins")]
    config["cliPluginsExtraDirs"] = plugins
    folder.mkdir(mode=0o700)
    file = folder / "config.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(config), encoding="utf-8")


def _docker_config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(event: dict[str, Any]) -> str | None:
    aux = event.get("aux")
    if isinstance(aux, dict) and "Digest" in aux:
        return str(aux["Digest"])
    match = _PUSHED.search(str(event.get("status", "")))
    return match[1] if match else None
