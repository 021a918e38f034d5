"""The docker builder: builds an image from a source tree and tags it by its content key.

With an engine, images are kept there, and pushed where `builder.destination` says so. Without
one, a `buildkitd` builds and pushes, and the registry is asked for everything else.
"""

import asyncio
import hashlib
import math
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent.builders.buildkit import (
    BuildKitService,
    BuildRun,
    arguments,
    buildx_folder,
    certificates_folder,
    connected,
    docker_environment,
    find_buildkit,
    run_build,
    run_environment,
    secret_sources,
    workspace,
)
from agent.builders.image.content_key import content_key, tree_digest
from agent.builders.image.ignore import Ignore
from agent.builders.image.plan import Plan, launch_context, make_plan
from agent.builders.image.references import (
    NAMESPACE,
    UNKNOWN,
    EngineResolver,
    ReferenceResolver,
    RegistryResolver,
    check_registry,
    read_reference,
    verified,
)
from agent.builders.image.repository import ImageRepository, write_docker_config
from agent.builders.image.source_policy import source_policy
from agent.builders.requirements import fetch_requirements
from agent.builders.uv import indexes, uv_version
from agent.config.execution import BuilderConfig
from agent.docker.client import Engine
from agent.docker.errors import EngineError, EngineRefusedError, EngineUnavailableError
from agent.docker.images import EngineImages, LocalImage
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, UnavailableError
from agent.model.names import safe_image_name
from agent.model.work import LABEL_BUILD_KEY, LABEL_KIND, Image
from agent.ports.build_daemon import BuildDaemonsPort
from agent.ports.builder import BuildPreview, BuildRequest
from agent.ports.log import LogSink, write_line
from agent.ports.registry import RegistryPort
from agent.ports.url import UrlPort
from agent.system.cache import Entry, surplus
from agent.system.tasks import Stop, in_thread

#: Part of every content key: increment when the build logic changes.
_VERSION: Final = 3
#: Hex digits of a content key in a tag on the engine; the image's label has the whole key.
_LOCAL_TAG_DIGITS: Final = 12
#: Local repository for the names of pulled images.
_PULLED: Final = f"{NAMESPACE}pulled"
#: Seconds after which nothing of a build can be in use: far beyond any deadline.
_ABANDONED: Final = 7 * 86400.0
_NOT_FOUND: Final = 404


class DockerBuilder:
    """`BuilderPort` over BuildKit.

    `cache` is a folder for short-lived files. `registry` is needed where images are pushed
    (`builder.destination`), and `engine` unless a `buildkitd` pushes them (`builder.buildkit`).
    Unless jobs run on that engine (`runs_on_engine`), only what the registry has is an image.
    `daemons` start a BuildKit for each build, in place of both.
    `verify` is asked for images that the job names, also if the engine has them.
    `urls` checks what requirements and Dockerfiles name. Engine and registry are
    closed by the caller.

    Raises:
        ConfigError: the configuration needs an engine or a registry that is not given.
    """

    name = "docker"

    def __init__(
        self,
        config: BuilderConfig,
        engine: Engine | None,
        cache: Path,
        *,
        threads: Executor,
        environment: Mapping[str, str],
        registry: RegistryPort | None = None,
        urls: UrlPort | None = None,
        verify: RegistryPort | None = None,
        runs_on_engine: bool = True,
        daemons: BuildDaemonsPort | None = None,
    ) -> None:
        self._config = config
        self._images = None if engine is None else EngineImages(engine)
        self._runs_on = self._images if runs_on_engine else None
        self._host = None if engine is None else engine.address.given
        self._repository = _image_repository(config, registry)
        self._daemons = daemons
        builds_alone = config.buildkit is not None or daemons is not None
        self._resolver = _resolver(self._images, self._repository, builds_alone=builds_alone)
        self._cache = cache
        self._threads = threads
        self._environment = environment
        self._urls = urls
        self._verify = verify
        self._buildkit: BuildKitService | None = None
        self._finding_buildkit = asyncio.Lock()

    async def preview(self, request: BuildRequest) -> BuildPreview:
        """See `BuilderPort`."""
        plan = await in_thread(self._threads, lambda _: make_plan(request, self._config))
        generated = plan.job_dockerfile is None
        return BuildPreview(
            dockerfile=plan.text,
            own_dockerfile=plan.shown_dockerfile,
            requirements=plan.requirements.found_in or None,
            base_image=plan.bases[0] if generated else None,
            base_image_configured=bool(self._config.base_image or self._config.accelerator),
            warnings=plan.requirements.warnings,
        )

    async def key(self, request: BuildRequest) -> str:
        """See `BuilderPort`. A base image counts by its content, not by its name."""
        plan = await self._plan(request)
        parts = await in_thread(self._threads, lambda stop: self._parts(plan, stop))
        parts["entity"] = request.entity
        if plan.remote:
            # No key can tell: BuildKit is asked each time, and finds the rest in its cache.
            parts["asked"] = secrets.token_hex()
        parts["secrets"] = sorted(
            name for name, secret in self._config.secrets.items() if secret.is_for(request.queue)
        )
        try:
            parts["platform"] = self._config.platform or await self._platform()
            for base in plan.bases:
                await check_registry(read_reference(base), self._urls)
                digest = None
                if self._verify is not None and (plan.job_dockerfile or request.base_image):
                    digest = await verified(read_reference(base), self._verify)
                content = await self._resolver.content(base)
                parts[f"base {base}"] = digest if digest and content == UNKNOWN else content
        except EngineError as error:
            raise _engine_failure(error) from None
        return content_key(parts)

    async def _plan(self, request: BuildRequest) -> Plan:
        found = None
        if request.dockerfile is None:
            found = await fetch_requirements(request, self._environment, self._threads, self._urls)
        return await in_thread(self._threads, lambda _: make_plan(request, self._config, found))

    def _parts(self, plan: Plan, stop: Stop) -> dict[str, Any]:
        generated = plan.job_dockerfile is None
        found = indexes(self._config, self._environment)
        return {
            "version": _VERSION,
            "network": self._config.network,
            "files": tree_digest(
                plan.context, everything=True, stop=stop, ignore=Ignore(plan.ignore)
            ),
            "dockerfile": plan.text,
            "ignore": plan.ignore,
            "launch": sorted(launch_context(plan).items()),
            "uv": uv_version() if generated else "",
            "indexes": (found.index_url, found.extra_index_urls) if generated else "",
            "bases": plan.bases,
        }

    async def _platform(self) -> str:
        if self._images is not None:
            return str(await self._images.platform())
        # That of a build's own daemon is not known before the build.
        return "" if self._daemons else (await self._find_buildkit()).platform or ""

    async def find(self, key: str) -> Image | None:
        """See `BuilderPort`: on the jobs' engine, else in the registry. Renews the last use."""
        try:
            found = await self._find_local(key)
            if found is not None or self._repository is None:
                return found
            return await self._name_pulled(key, await self._repository.find(key))
        except EngineError as error:
            # 404: removed between two calls.
            if isinstance(error, EngineRefusedError) and error.status == _NOT_FOUND:
                return None
            raise _engine_failure(error) from None

    async def _find_local(self, key: str) -> Image | None:
        if self._runs_on is None:
            return None
        for listed in await self._runs_on.labelled(f"{LABEL_BUILD_KEY}={key}"):
            tag = _own_tag(listed, key)
            local = await self._runs_on.inspect(listed["Id"]) if tag else None
            if tag and local and (image := self._image(local, tag, reused=True)):
                repository, _, name = tag.rpartition(":")
                await self._runs_on.tag(local.id, repository, name)
                return image
        return None

    async def _name_pulled(self, key: str, image: Image | None) -> Image | None:
        """Name an image that was pulled: found here from now on, and pruned."""
        if image is None or self._runs_on is None:
            return image
        local = await self._runs_on.inspect(image.reference)
        if local is None:
            return replace(image, needs_pull=True)
        await self._runs_on.tag(local.id, _PULLED, key[:_LOCAL_TAG_DIGITS])
        return image

    async def build(self, request: BuildRequest, key: str, log: LogSink) -> Image:
        """See `BuilderPort`."""
        plan = await self._plan(request)
        try:
            async with self._opened_buildkit(log) as buildkit:
                await _announce(plan, request, buildkit, log)
                image = await self._build(plan, request, key, buildkit, log)
        except EngineError as error:
            raise _engine_failure(error) from None
        return replace(image, built_by=buildkit.title)

    async def _build(
        self, plan: Plan, request: BuildRequest, key: str, buildkit: BuildKitService, log: LogSink
    ) -> Image:
        tag = f"{NAMESPACE}{safe_image_name(request.title)}:{key[:_LOCAL_TAG_DIGITS]}"
        build = await self._build_run(plan, request, key, buildkit, tag)
        digest = await self._run(build, log)
        if self._repository is not None and build.pushed_as is not None:
            if digest is None:
                raise self._repository.failed("BuildKit returned no digest")
            await write_line(log, f"pushed to {build.pushed_as} ({digest})")
            pushed = self._repository.image(digest, key, reused=False)
            return replace(pushed, needs_pull=self._runs_on is not None)
        local = None if self._images is None else await self._images.inspect(tag)
        if local is not None and self._images is not None and self._repository is not None:
            digest = await self._repository.push(self._images, local.id, key, log)
            pushed = self._repository.image(digest, key, reused=False)
            return replace(pushed, name=tag)
        image = self._image(local, tag, reused=False) if local else None
        if image is None:
            raise JobError(
                Cause.BUILD_FAILED, f"The engine does not have the image {tag} it built."
            )
        await write_line(log, f"built {tag} ({image.pinned_by} {image.reference})")
        return image

    @asynccontextmanager
    async def _opened_buildkit(self, log: LogSink) -> AsyncIterator[BuildKitService]:
        """The BuildKit of one build."""
        if self._daemons is None:
            yield await self._find_buildkit()
            return
        env = docker_environment(self._host, self._cache, self._environment)
        async with AsyncExitStack() as stack:
            context = certificates_folder(self._cache)
            folder = await in_thread(self._threads, lambda _: stack.enter_context(context))
            daemon = await stack.enter_async_context(self._daemons.open(folder, log))
            yield await stack.enter_async_context(connected(daemon, env))

    async def _find_buildkit(self) -> BuildKitService:
        """Found by the first build; errors are not cached."""
        async with self._finding_buildkit:
            if self._buildkit is None:
                env = docker_environment(self._host, self._cache, self._environment)
                self._buildkit = await find_buildkit(self._images, self._config, env)
            return self._buildkit

    async def _build_run(
        self, plan: Plan, request: BuildRequest, key: str, buildkit: BuildKitService, tag: str
    ) -> BuildRun:
        found = indexes(self._config, self._environment)
        values, files = await in_thread(
            self._threads,
            lambda _: secret_sources(self._config, request.queue, found, self._environment),
        )
        labels = {**request.labels, LABEL_BUILD_KEY: key, LABEL_KIND: "image"}
        build = BuildRun(
            request.title, plan, tag, labels, _cache_namespace(request.entity), values, files,
            found.proxies, buildkit,
        )  # fmt: skip
        repository = self._repository
        if repository is None or not (buildkit.pushes or buildkit.registry_cache):
            return build
        cache = await in_thread(self._threads, lambda _: repository.cache_reference(request, plan))
        return replace(
            build,
            pushed_as=repository.reference(key) if buildkit.pushes else None,
            cache=cache if buildkit.registry_cache else None,
            login=await repository.registry.credentials(repository.name),
        )

    async def _run(self, build: BuildRun, log: LogSink) -> str | None:
        """Run the build; return the digest of what it pushed."""
        base = docker_environment(self._host, self._cache, self._environment)
        with ExitStack() as stack:
            plan = build.plan
            policy = source_policy(plan.bases, plan.frontends, self._config)
            context = workspace(self._cache, plan, policy)
            work = await in_thread(self._threads, lambda _: stack.enter_context(context))
            login = build.login
            if login is not None:
                await in_thread(
                    self._threads,
                    lambda _: write_docker_config(work.login_folder, login, self._environment),
                )
            env = run_environment(build, base, work)
            await run_build(arguments(work, build, self._config), env, build, log)
            return await in_thread(self._threads, lambda _: work.digest())

    def _image(self, local: LocalImage, tag: str, *, reused: bool) -> Image | None:
        """Referenced by digest if the image store has one, else by id.

        Pushed images are referenced by the registry's digest.
        """
        repository = self._repository.name if self._repository else tag.rpartition(":")[0]
        pinned = next((each for each in local.digests if each.startswith(f"{repository}@")), None)
        if pinned is not None:
            return Image(pinned, "digest", reused, tag)
        return None if self._repository else Image(local.id, "image-id", reused, tag)

    async def check(self) -> None:
        """See `BuilderPort`."""
        if self._config.buildkit is not None:
            env = docker_environment(self._host, self._cache, self._environment)
            await find_buildkit(self._images, self._config, env)
        if self._repository is not None:
            await self._repository.check()

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """See `BuilderPort`: images of ours by their last use, never those of containers."""
        await in_thread(self._threads, lambda _: remove_abandoned(self._cache))
        if self._images is None:
            return 0
        try:
            return await prune_images(self._images, self._config.destination, max_age, max_bytes)
        except EngineError:
            return 0

    async def prune_cache(self, max_age: float, max_bytes: int) -> int:
        """The same for BuildKit's cache, which the whole engine shares."""
        if self._images is None:
            return 0
        try:
            return await self._images.prune_build_cache(max_age, max_bytes)
        except EngineError:
            return 0


def _engine_failure(error: EngineError) -> JobError:
    """The error for an engine that does not answer, or refuses a call."""
    if isinstance(error, EngineUnavailableError):
        return UnavailableError(error.cause, error.message, hint=error.hint)
    return JobError(Cause.BUILD_UNAVAILABLE, error.message)


async def prune_images(
    images: EngineImages, repository: str | None, max_age: float, max_bytes: int
) -> int:
    """Remove images of ours by their last use; return the bytes freed.

    `repository` is where they were pushed to: those names go as well, on this engine only.

    Raises:
        EngineError: see `EngineImages`.
    """
    now = datetime.now(UTC)
    names: dict[Path, list[str]] = {}
    found: list[Entry] = []
    for listed in await images.labelled(LABEL_BUILD_KEY):
        ours = _names(listed, repository)
        if not ours:
            continue
        idle = now - _time(await images.last_tagged(listed["Id"]), now)
        image = Path(listed["Id"])
        names[image] = ours
        found.append(Entry(image, idle.total_seconds(), listed.get("Size") or 0))
    found.sort(key=lambda entry: -entry.idle)
    freed = 0
    for entry in surplus(found, max_age, max_bytes):
        removed = [await images.remove(name) for name in names[entry.folder]]
        freed += entry.size if removed[-1] else 0
    return freed


def remove_abandoned(cache: Path) -> None:
    """Remove what killed builds left, and buildx's notes on past builds. Blocks."""
    oldest = time.time() - _ABANDONED
    for folder in cache.glob("build-*"):
        if _changed(folder) < oldest:
            shutil.rmtree(folder, ignore_errors=True)
    for note in (buildx_folder(cache) / "refs").glob("*/*/*"):
        if _changed(note) < oldest:
            note.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    """When it last changed; what no longer exists counts as new."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return math.inf


def _names(listed: Mapping[str, Any], repository: str | None) -> list[str]:
    """All names to remove; ours last, since a container protects the last name."""
    ours = [tag for tag in listed.get("RepoTags") or () if tag.startswith(NAMESPACE)]
    if not ours or repository is None:
        return ours
    every = [*(listed.get("RepoTags") or ()), *(listed.get("RepoDigests") or ())]
    pushed = [name for name in every if name.startswith((f"{repository}:", f"{repository}@"))]
    return [*pushed, *ours]


def _time(text: str, otherwise: datetime) -> datetime:
    """Docker writes nanoseconds and a zone; what cannot be read counts as used now."""
    try:
        return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
    except ValueError:
        return otherwise


def _image_repository(
    config: BuilderConfig, registry: RegistryPort | None
) -> ImageRepository | None:
    if config.destination is None:
        return None
    if registry is None:
        message = f"There is no client for the registry of {config.destination}."
        raise ConfigError(message, hint="Make the builder with a registry.")
    return ImageRepository(config.destination, registry)


def _resolver(
    images: EngineImages | None, repository: ImageRepository | None, *, builds_alone: bool
) -> ReferenceResolver:
    if images is not None:
        return EngineResolver(images, None if repository is None else repository.registry)
    if repository is None or not builds_alone:
        message = "Without a container engine, images need a buildkitd and a registry."
        raise ConfigError(message, hint="Set `builder.buildkit` and `builder.destination`.")
    return RegistryResolver(repository.registry)


def _cache_namespace(entity: str) -> str:
    return hashlib.sha256(entity.encode()).hexdigest()[:16]


async def _announce(
    plan: Plan, request: BuildRequest, buildkit: BuildKitService, log: LogSink
) -> None:
    await write_line(log, f"built by {buildkit.title}")
    if plan.withheld:
        names = ", ".join(plan.withheld)
        await write_line(
            log,
            f"not sent to the build because they look like secrets: {names}; "
            f"to include one, add `!{plan.withheld[0]}` to .dockerignore",
        )
    if plan.job_dockerfile is not None:
        await write_line(log, f"building {request.title} from its {plan.shown_dockerfile}")
        return
    for remark in plan.requirements.remarks:
        await write_line(log, f"warning: {remark}")
    found = f"with {plan.requirements.found_in}" if plan.requirements else "without requirements"
    await write_line(log, f"building {request.title} on {plan.bases[0]}, {found}")


def _own_tag(listed: Mapping[str, Any], key: str) -> str | None:
    """The tag that only a build here can have given; a label alone proves nothing."""
    tags = listed.get("RepoTags") or ()
    wanted = f":{key[:_LOCAL_TAG_DIGITS]}"
    return next((tag for tag in tags if tag.startswith(NAMESPACE) and tag.endswith(wanted)), None)
