"""The docker builder: from a source tree to an image that its content key finds again."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from agent.builders.context import content_key, tree_digest
from agent.builders.docker.bases import base_content
from agent.builders.docker.buildx import (
    Invocation,
    arguments,
    build,
    child_environment,
    docker_environment,
    secret_sources,
    workspace,
)
from agent.builders.docker.credentials import write_docker_config
from agent.builders.docker.failures import Attempt, engine_away
from agent.builders.docker.ladder import Rung, probe
from agent.builders.docker.plan import Plan, launch_context, make_plan
from agent.builders.docker.pruning import prune_images, tidy
from agent.builders.docker.pushing import ImageRepository
from agent.builders.docker.reference import NAMESPACE
from agent.builders.ignore import Ignore
from agent.builders.uv import indexes, uv_version
from agent.config.execution import BuilderConfig
from agent.docker.client import Engine
from agent.docker.errors import EngineError, EngineRefusedError
from agent.docker.images import EngineImages, LocalImage
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError
from agent.model.names import safe_image_name
from agent.model.work import LABEL_BUILD_KEY, LABEL_KIND, Image
from agent.ports.builder import BuildPreview, BuildRequest
from agent.ports.log import LogSink, say
from agent.ports.registry import RegistryPort
from agent.system.threads import Stop, in_thread

#: Part of every key: raise it when equal inputs give another image.
_VERSION: Final = 1
_TAG: Final = 12
#: Repository of the names that pulled images get here.
_PULLED: Final = f"{NAMESPACE}pulled"


class DockerBuilder:
    """`BuilderPort` over BuildKit in the agent's engine.

    `cache` is a folder for short-lived files. `registry` is needed where images are pushed
    (`builder.destination`). Engine and registry are closed by whoever made them.
    """

    name = "docker"

    def __init__(
        self,
        config: BuilderConfig,
        engine: Engine,
        cache: Path,
        *,
        threads: Executor,
        environment: Mapping[str, str],
        registry: RegistryPort | None = None,
    ) -> None:
        self._config = config
        self._host = engine.address.given
        self._images = EngineImages(engine)
        self._repository = _image_repository(config, registry)
        self._rung: Rung | None = None
        self._probing = asyncio.Lock()
        self._cache = cache
        self._threads = threads
        self._environment = environment

    async def preview(self, request: BuildRequest) -> BuildPreview:
        """See `BuilderPort`."""
        plan = await in_thread(self._threads, lambda _: make_plan(request, self._config))
        generated = plan.generated
        found = None if generated is None else generated.requirements
        return BuildPreview(
            dockerfile=plan.text,
            own_dockerfile=plan.shown_dockerfile,
            requirements=None if found is None else found.found_in,
            base_image=None if generated is None else plan.bases[0],
            base_image_configured=bool(self._config.base_image or self._config.accelerator),
        )

    async def key(self, request: BuildRequest) -> str:
        """See `BuilderPort`. A base image counts by its content, not by its name."""
        parts = await in_thread(self._threads, lambda stop: self._parts(request, stop))
        try:
            parts["platform"] = self._config.platform or str(await self._images.platform())
            for base in parts["bases"]:
                parts[f"base {base}"] = await base_content(self._images, self._repository, base)
        except EngineError as error:
            raise engine_away(error.detail) from None
        return content_key(parts)

    def _parts(self, request: BuildRequest, stop: Stop) -> dict[str, Any]:
        plan = make_plan(request, self._config)
        generated = plan.generated
        found = indexes(self._config, self._environment)
        texts = {} if generated is None else launch_context(generated)
        return {
            "version": _VERSION,
            "network": self._config.network,
            "files": tree_digest(
                request.context, everything=True, stop=stop, ignore=Ignore(plan.ignore)
            ),
            "dockerfile": plan.text,
            "ignore": plan.ignore,
            "launch": sorted(texts.items()),
            "uv": "" if generated is None else uv_version(),
            "indexes": "" if generated is None else (found.index_url, found.extra_index_urls),
            "secrets": sorted(self._config.secrets),
            "bases": plan.bases,
        }

    async def find(self, key: str) -> Image | None:
        """See `BuilderPort`: here, else in the registry. Finding renews the last use here."""
        try:
            found = await self._find_here(key)
            if found is not None or self._repository is None:
                return found
            return await self._note(key, await self._repository.find(key))
        except EngineError as error:
            # 404: removed between two calls.
            if not isinstance(error, EngineRefusedError) or error.status != 404:  # noqa: PLR2004
                raise engine_away(error.detail) from None
        return None

    async def _find_here(self, key: str) -> Image | None:
        for listed in await self._images.labelled(f"{LABEL_BUILD_KEY}={key}"):
            tag = _own_tag(listed, key)
            facts = await self._images.inspect(listed["Id"]) if tag else None
            if tag and facts and (image := self._image(facts, tag, reused=True)):
                await self._images.tag(facts.id, *_split(tag))
                return image
        return None

    async def _note(self, key: str, image: Image | None) -> Image | None:
        """One that was pulled gets a name of ours: found here from now on, and pruned."""
        facts = None if image is None else await self._images.inspect(image.reference)
        if image is None or facts is None:
            return image
        await self._images.tag(facts.id, _PULLED, key[:_TAG])
        return replace(image, here=True)

    async def build(self, request: BuildRequest, key: str, log: LogSink) -> Image:
        """See `BuilderPort`."""
        plan = await in_thread(self._threads, lambda _: make_plan(request, self._config))
        try:
            rung = await self._best_rung()
            await _announce(plan, request, rung, log)
            return await self._build(plan, request, key, rung, log)
        except EngineError as error:
            raise engine_away(error.detail) from None

    async def _build(
        self, plan: Plan, request: BuildRequest, key: str, rung: Rung, log: LogSink
    ) -> Image:
        tag = f"{NAMESPACE}{safe_image_name(request.title)}:{key[:_TAG]}"
        invocation = await self._invocation(plan, request, key, rung, tag)
        digest = await self._run(invocation, request.title, log)
        if self._repository is not None and invocation.pushed_as is not None:
            if digest is None:
                raise self._repository.failed("BuildKit told no digest")
            await say(log, f"pushed to {invocation.pushed_as} ({digest})")
            pushed = self._repository.image(digest, key, reused=False)
            return replace(pushed, built_by=rung.words)
        facts = await self._images.inspect(tag)
        if facts is not None and self._repository is not None:
            digest = await self._repository.push(self._images, facts.id, key, log)
            pushed = self._repository.image(digest, key, reused=False)
            return replace(pushed, name=tag, here=True, built_by=rung.words)
        image = self._image(facts, tag, reused=False) if facts else None
        if image is None:
            raise JobError(
                Cause.BUILD_FAILED, f"The engine does not have the image {tag} it built."
            )
        await say(log, f"built {tag} ({image.pinned_by} {image.reference})")
        return replace(image, built_by=rung.words)

    async def _best_rung(self) -> Rung:
        """Probed by the first build; a failure is not remembered."""
        async with self._probing:
            if self._rung is None:
                env = docker_environment(self._host, self._cache, self._environment)
                self._rung = await probe(self._images, self._config, env)
            return self._rung

    async def _invocation(
        self, plan: Plan, request: BuildRequest, key: str, rung: Rung, tag: str
    ) -> Invocation:
        found = indexes(self._config, self._environment)
        values, files = await in_thread(
            self._threads, lambda _: secret_sources(self._config, found, self._environment)
        )
        labels = {**request.labels, LABEL_BUILD_KEY: key, LABEL_KIND: "image"}
        invocation = Invocation(plan, tag, labels, values, files, found.proxies, rung)
        repository = self._repository
        if repository is None or not (rung.pushes or rung.registry_cache):
            return invocation
        cache = await in_thread(self._threads, lambda _: repository.cache(request, plan))
        return replace(
            invocation,
            pushed_as=repository.reference(key) if rung.pushes else None,
            cache=cache if rung.registry_cache else None,
            login=await repository.registry.credentials(repository.name),
        )

    async def _run(self, invocation: Invocation, title: str, log: LogSink) -> str | None:
        """Run the build; give the digest of what it pushed."""
        plan = invocation.plan
        requirements = plan.generated.requirements if plan.generated else None
        attempt = Attempt(title, plan.shown_dockerfile, requirements)
        base = docker_environment(self._host, self._cache, self._environment)
        with ExitStack() as stack:
            context = workspace(self._cache, plan)
            work = await in_thread(self._threads, lambda _: stack.enter_context(context))
            login = invocation.login
            if login is not None:
                await in_thread(
                    self._threads,
                    lambda _: write_docker_config(work.login_folder, login, self._environment),
                )
            env = child_environment(invocation, base, work)
            await build(arguments(work, invocation, self._config), env, attempt, log)
            return await in_thread(self._threads, lambda _: work.digest())

    def _image(self, facts: LocalImage, tag: str, *, reused: bool) -> Image | None:
        """By digest where the store has one, else by id; pushed images by the registry's."""
        repository = self._repository.name if self._repository else tag.rpartition(":")[0]
        pinned = next((each for each in facts.digests if each.startswith(f"{repository}@")), None)
        if pinned is not None:
            return Image(pinned, "digest", reused, tag)
        return None if self._repository else Image(facts.id, "image-id", reused, tag)

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """See `BuilderPort`: images of ours by their last use; containers protect theirs."""
        await in_thread(self._threads, lambda _: tidy(self._cache))
        try:
            return await prune_images(self._images, self._config.destination, max_age, max_bytes)
        except EngineError:
            return 0

    async def prune_cache(self, max_age: float, max_bytes: int) -> int:
        """The same for BuildKit's cache, which is one for the whole engine."""
        try:
            return await self._images.prune_build_cache(max_age, max_bytes)
        except EngineError:
            return 0


def _image_repository(
    config: BuilderConfig, registry: RegistryPort | None
) -> ImageRepository | None:
    if config.destination is None:
        return None
    if registry is None:
        message = f"Nothing speaks with the registry of {config.destination}."
        raise ConfigError(message, hint="Make the builder with a registry.")
    return ImageRepository(config.destination, registry)


async def _announce(plan: Plan, request: BuildRequest, rung: Rung, log: LogSink) -> None:
    await say(log, f"built by {rung.words}")
    if plan.withheld:
        names = ", ".join(plan.withheld)
        await say(log, f"left out, as secrets: {names} (`!{plan.withheld[0]}` in .dockerignore)")
    if plan.generated is None:
        await say(log, f"building {request.title} from its {plan.shown_dockerfile}")
        return
    requirements = plan.generated.requirements
    found = f"with {requirements.found_in}" if requirements else "without requirements"
    await say(log, f"building {request.title} on {plan.bases[0]}, {found}")


def _own_tag(listed: Mapping[str, Any], key: str) -> str | None:
    """The tag that only a build here can have given; a label alone proves nothing."""
    tags = listed.get("RepoTags") or ()
    wanted = f":{key[:_TAG]}"
    return next((tag for tag in tags if tag.startswith(NAMESPACE) and tag.endswith(wanted)), None)


def _split(tag: str) -> tuple[str, str]:
    repository, _, name = tag.rpartition(":")
    return repository, name
