"""Backends and sources of an agent, made from its configuration.

The only module that names concrete builders, runners, engines, registries and sources. It
imports each one where it is chosen, which keeps the start of the process short.
"""

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

import structlog
from yarl import URL

from agent import plugins
from agent.compose.cluster_builder import build_pods, choose_cluster_builder
from agent.compose.job_urls import url_for_containers, url_for_people, url_for_pods
from agent.config.agent import AgentConfig
from agent.config.execution import BuilderConfig
from agent.daemon.pruning import Pruner
from agent.daemon.service import Backends
from agent.model import names
from agent.model.errors import ConfigError, InvalidInputError
from agent.model.names import CONTAINERS, KUBERNETES, PROCESSES
from agent.pipeline.dependencies import Backend, Sources
from agent.ports.build_daemon import BuildDaemonsPort
from agent.ports.builder import BuilderPort
from agent.ports.registry import RegistryPort
from agent.registries.destination import Destination, read_destination, read_registry
from agent.system import machine

if TYPE_CHECKING:
    from agent.builders.docker import DockerBuilder
    from agent.builders.noop import NoBuilder
    from agent.builders.prebuilt import Pull
    from agent.control.server import ControlPlane
    from agent.docker.client import Engine
    from agent.ports.artifact import ArtifactPort
    from agent.registries.logins import LoginSource
    from agent.registries.oci import OciRegistry
    from agent.sources.address_policy import AddressPolicy
    from agent.sources.url_access import UrlAccess

#: Seconds in which an engine must answer at startup.
_DETECTION_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class BackendContext:
    """What the backends and sources of one agent are made from."""

    config: AgentConfig
    environment: Mapping[str, str] = field(repr=False)
    threads: Executor
    #: Address by which this process reaches the control plane.
    url: str
    #: The control plane, where it is embedded in this process.
    control_plane: "ControlPlane | None"
    #: See `detect_resources`.
    resources: tuple[str, ...]
    #: The control plane is embedded in another process of this user on this machine, which
    #: listens on the gateway of the job network, too.
    embedded_elsewhere: bool = False
    #: Known after registration.
    agent_name: str = ""

    @property
    def embedded(self) -> bool:
        """The control plane is embedded: the user is the administrator."""
        return self.control_plane is not None or self.embedded_elsewhere

    @property
    def cache(self) -> Path:
        """Folder of everything that can be created again."""
        return self.config.state_dir / "cache"

    def plugin_context(self, control_plane_id: str, name: str) -> plugins.PluginContext:
        """What a plugin is made from."""
        folder = self.cache / name
        return plugins.PluginContext(control_plane_id, folder, self.threads, self.environment)


# --------------------------------------------------------------- detection of resources


async def detect_resources(config: AgentConfig, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The resources that this machine can run jobs on; a new default queue takes the first.

    Raises:
        ConfigError: there is none, or an engine that the configuration requires does not answer.
    """
    found = [CONTAINERS] if await _has_container_engine(config, environment) else []
    if config.runners.kubernetes.enabled:
        found.append(KUBERNETES)
    processes = config.runners.local_process.enabled
    if processes is True or (processes == "auto" and not found):
        found.append(PROCESSES)
    if KUBERNETES not in found:
        _refuse_builder_in_cluster(config.builder, has_engine=CONTAINERS in found)
    found += plugins.find(plugins.RUNNERS)
    if not found:
        message = "This agent has no runner, so it cannot run any job."
        raise ConfigError(message, hint="Set `enabled: auto` below `runners`.")
    return tuple(found)


def _refuse_builder_in_cluster(config: BuilderConfig, *, has_engine: bool) -> None:
    """W&B's files name kaniko on machines without a cluster, too: an engine builds there."""
    if config.type == "kubernetes" or (config.type == "kaniko" and not has_engine):
        message = f"`builder.type: {config.type}` builds in a cluster, and this agent has none."
        hint = "Set `runners.kubernetes.enabled`, or `builder.type` to auto."
        raise ConfigError(message, hint=hint)


async def _has_container_engine(config: AgentConfig, environment: Mapping[str, str]) -> bool:
    enabled, host = config.runners.local_container.enabled, config.runners.local_container.host
    if enabled is False:
        return False
    failure = await engine_failure(host, environment)
    if failure is not None and enabled is True:
        message = f"The container engine does not answer: {failure}."
        hint = "Start it, or set `runners.local-container.enabled` to auto or false."
        raise ConfigError(message, hint=hint)
    return failure is None


async def engine_failure(host: str | None, environment: Mapping[str, str]) -> str | None:
    """Why no container engine can be used; `None` when one answers."""
    from agent.docker.client import Engine
    from agent.docker.errors import EngineError

    try:
        async with asyncio.timeout(_DETECTION_TIMEOUT), Engine(host, environment) as engine:
            await engine.get("/version")
    except TimeoutError:
        return f"no answer within {_DETECTION_TIMEOUT:.0f} s"
    except EngineError as error:
        return error.detail
    except ConfigError as error:
        return str(error).rstrip(".")
    return None


async def shared_backend_id(context: BackendContext) -> str | None:
    """Id of the container engine or cluster, if the agent runs jobs on nothing else.

    Agents that share one may adopt each other's jobs. Processes are known only to the agent of
    their own state folder, which the agent's identity names already.
    """
    from agent.runners.docker.runner import DockerRunner
    from agent.runners.kubernetes.runner import KubernetesRunner

    runners = context.config.runners
    match context.resources:
        case (names.CONTAINERS,):
            async with DockerRunner("", runners.local_container, context.threads) as engine:
                return await engine.backend_id()
        case (names.KUBERNETES,):
            async with KubernetesRunner("", runners.kubernetes) as cluster:
                return await cluster.backend_id()
        case _:
            return None


# ----------------------------------------------------------------------------- backends


async def open_backends(
    stack: AsyncExitStack,
    context: BackendContext,
    control_plane_id: str,
    pruners: tuple[Pruner, ...],
) -> Backends:
    """Make a backend for every resource of the context; `stack` closes them.

    `pruners` are those of parts that belong to no backend.

    Raises:
        JobError: `LOST_ENGINE`: the engine does not answer any more.
        ConfigError: a network, a user or a plugin cannot be used.
    """
    backends: dict[str, Backend] = {}
    for resource in context.resources:
        backends[resource], own = await _open_backend(stack, context, resource, control_plane_id)
        pruners += own
    return Backends(backends, pruners)


async def open_preview_backend(
    stack: AsyncExitStack, context: BackendContext, resource: str
) -> Backend:
    """A backend of which only `check` and `preview` are called: no engine needs to answer.

    Raises:
        InvalidInputError: this agent has no runner for the resource.
    """
    backend, _ = await _open_backend(stack, context, resource, None)
    return backend


async def _open_backend(
    stack: AsyncExitStack, context: BackendContext, resource: str, control_plane_id: str | None
) -> tuple[Backend, tuple[Pruner, ...]]:
    """One backend and what prunes its files; for previews, `control_plane_id` is `None`."""
    pruners: tuple[Pruner, ...] = ()
    plugin_context = context.plugin_context(control_plane_id or "", resource)
    match resource:
        case names.CONTAINERS:
            backend, pruners = await _container_backend(stack, context, control_plane_id)
        case names.PROCESSES:
            backend, pruners = _process_backend(context, control_plane_id or "")
        case names.KUBERNETES:
            backend, pruners = await _cluster_backend(stack, context, control_plane_id)
        case _:
            runners = plugins.find(plugins.RUNNERS)
            if resource not in runners:
                message = f"This machine has no runner for `{resource}`."
                known = (CONTAINERS, PROCESSES, KUBERNETES, *runners)
                raise InvalidInputError(message, hint=f"Available: {', '.join(known)}.")
            backend = Backend(runners[resource](plugin_context), None, None, context.url)
    builders = plugins.find(plugins.BUILDERS)
    if resource in builders:
        backend = replace(backend, builder=builders[resource](plugin_context))
    pages = url_for_people(context)
    return replace(backend, page_url=None if pages == backend.job_url else pages), pruners


async def _container_backend(
    stack: AsyncExitStack, context: BackendContext, control_plane_id: str | None
) -> tuple[Backend, tuple[Pruner, ...]]:
    from agent.builders.prebuilt import PrebuiltImages, only_signed
    from agent.docker.client import Engine
    from agent.runners.docker.runner import DockerRunner

    config = context.config.runners.local_container
    if config.memory_limit == "auto":
        config = config.model_copy(update={"memory_limit": machine.memory() * 9 // 10})
    runner = DockerRunner(
        control_plane_id or "",
        config,
        context.threads,
        mounts=context.config.mounts,
        state_dir=None if control_plane_id is None else context.config.state_dir / "containers",
    )
    stack.push_async_callback(runner.close)
    url, destination = context.url, None
    if control_plane_id is not None:
        url = await url_for_containers(context, await runner.ensure_network())
        destination = image_destination(context.config)
        _warn_of_deprecated_settings(context.config, destination)
    engine = await stack.enter_async_context(Engine(config.host, context.environment))
    registry = await open_registry(stack, context, destination)
    images = PrebuiltImages(
        engine, pull=_pull(context), registry=registry, urls=_url_access(context)
    )
    signed = only_signed(images, registry, context.config.sources.image_keys)
    settings = builder_config(context.config, destination)
    builder = image_builder(context, engine, settings, registry)
    rules = context.config.prune
    return Backend(runner, builder, signed, url, puller=images), (
        Pruner("images", rules.images, builder.prune),
        Pruner("build cache", rules.build_cache, builder.prune_cache),
    )


async def _cluster_backend(
    stack: AsyncExitStack, context: BackendContext, control_plane_id: str | None
) -> tuple[Backend, tuple[Pruner, ...]]:
    from agent.builders.prebuilt import RegistryImages, only_signed
    from agent.docker.client import Engine
    from agent.runners.kubernetes.namespaces import NamespacesRunner
    from agent.runners.kubernetes.runner import KubernetesRunner

    config = context.config.runners.kubernetes
    destination, url = image_destination(context.config), context.url
    registry = await open_registry(stack, context, destination)
    given = (control_plane_id or "", config, context.agent_name, registry.credentials)
    runner: KubernetesRunner | NamespacesRunner = (
        NamespacesRunner(*given) if config.namespaces else KubernetesRunner(*given)
    )
    if control_plane_id is not None:
        url = url_for_pods(context)
        _warn_of_deprecated_settings(context.config, destination)
        await stack.enter_async_context(runner)
    keys = context.config.sources.image_keys
    images = only_signed(RegistryImages(registry, _url_access(context)), registry, keys)
    mounts = bool(config.code_image)
    backend = Backend(runner, None, images, url, takes_manifest=True, mounts_code=mounts)
    settings = builder_config(context.config, destination)
    if control_plane_id is None:
        engine = Engine(context.config.runners.local_container.host, context.environment)
        builder = image_builder(context, engine, settings, registry, runs_on_engine=False)
        shown = replace(
            backend, builder=builder, side_services=runner.side_services, dry_run=runner.dry_run
        )
        return shown, ()
    builder = await _cluster_builder(stack, context, registry)
    if CONTAINERS in context.resources:
        pruners: tuple[Pruner, ...] = ()  # those of the same engine's other backend
    else:
        rules = context.config.prune
        pruners = (
            Pruner("images", rules.images, builder.prune),
            Pruner("build cache", rules.build_cache, builder.prune_cache),
        )
    return replace(backend, builder=builder), pruners


async def _cluster_builder(
    stack: AsyncExitStack, context: BackendContext, registry: RegistryPort
) -> "DockerBuilder | NoBuilder":
    from agent.builders.noop import NoBuilder
    from agent.docker.client import Engine

    config = builder_config(context.config, image_destination(context.config))
    host = context.config.runners.local_container.host
    failure = await engine_failure(host, context.environment) if config.type == "auto" else None
    chosen = choose_cluster_builder(config, failure)
    structlog.get_logger().info(
        "images for the cluster", built_by=chosen.kind, because=chosen.because
    )
    engine, daemons = None, None
    match chosen.kind:
        case "nothing":
            return NoBuilder(config.type, chosen.because)
        case "pods":
            daemons = await build_pods(stack, context.config.runners.kubernetes, config)
        case "engine":
            engine = await stack.enter_async_context(Engine(host, context.environment))
    return image_builder(context, engine, config, registry, runs_on_engine=False, daemons=daemons)


def _pull(context: BackendContext) -> "Pull":
    chosen = context.config.runners.local_container.pull
    if chosen == "auto":
        return "missing" if context.embedded else "always-verify"
    return chosen


def image_builder(
    context: BackendContext,
    engine: "Engine | None",
    config: BuilderConfig,
    registry: RegistryPort,
    *,
    runs_on_engine: bool = True,
    daemons: BuildDaemonsPort | None = None,
) -> "DockerBuilder | NoBuilder":
    """The builder of container images that `builder.type` selects."""
    from agent.builders.docker import DockerBuilder
    from agent.builders.noop import NoBuilder

    match config.type:
        # W&B's configuration files name kaniko on machines without a cluster, too.
        case "auto" | "docker" | "kubernetes" | "kaniko":
            return DockerBuilder(
                config,
                engine,
                context.cache / "builds",
                threads=context.threads,
                environment=context.environment,
                registry=registry,
                urls=_url_access(context),
                verify=registry if _pull(context) == "always-verify" else None,
                runs_on_engine=runs_on_engine,
                daemons=daemons,
            )
        case "noop" | "virtualenv":
            return NoBuilder(config.type)
        case _:
            assert_never(config.type)


def _url_access(context: BackendContext) -> "UrlAccess":
    """How builders check and fetch what jobs name by URL."""
    from agent.builders.uv import indexes
    from agent.sources.url_access import UrlAccess

    # What the administrator configured may be private: these hosts are exempt.
    builder = context.config.builder
    found = indexes(builder, context.environment)
    listed = " ".join(filter(None, (found.index_url, found.extra_index_urls))).split()
    destination = image_destination(context.config)
    images = [builder.base_image, builder.accelerator and builder.accelerator.base_image]
    images.append(None if destination is None else destination.repository)
    listed += [f"https://{image.split('@')[0]}" for image in images if image and "/" in image]
    urls = [URL(each.split("/")[0] + "//" + each.split("/")[2]) for each in listed]
    hosts = [(url.host, url.port) for url in urls if url.host and url.port]
    return UrlAccess(address_policy(context, hosts), context.threads)


def address_policy(
    context: BackendContext, configured: Iterable[tuple[str, int]] = ()
) -> "AddressPolicy":
    """Which addresses may be connected to because a user named them."""
    from agent.sources.address_policy import AddressPolicy

    hosts = context.config.sources.private_hosts
    return AddressPolicy(hosts, context.embedded, configured=tuple(configured))


def _process_backend(
    context: BackendContext, control_plane_id: str
) -> tuple[Backend, tuple[Pruner, ...]]:
    from agent.builders.noop import NoBuilder
    from agent.builders.virtualenv import VirtualenvBuilder
    from agent.compose.process_users import job_users, open_to_users
    from agent.runners.process.runner import ProcessRunner

    config = context.config
    root = config.state_dir / "processes"
    users = job_users(config, root, context.threads)
    if users is not None and control_plane_id:
        users.lock()
        open_to_users(config.state_dir)
    settings, threads = config.runners.local_process, context.threads
    runner = ProcessRunner(root, control_plane_id, settings, threads, context.environment, users)
    environments = VirtualenvBuilder(
        config.builder,
        context.cache / "python",
        threads=threads,
        environment=context.environment,
        urls=_url_access(context),
        users=users,
    )
    # Processes need virtual environments whichever builder makes the images, unless the
    # administrator switched building off.
    builder: BuilderPort = NoBuilder("noop") if config.builder.type == "noop" else environments
    pruner = Pruner("environments", config.prune.environments, environments.prune)
    return Backend(runner, builder, None, context.url), (pruner,)


# --------------------------------------------------------------------------- registries


def image_destination(config: AgentConfig) -> Destination | None:
    """Where images are pushed to: `builder.destination`, else W&B's `registry` block.

    Raises:
        ConfigError: it cannot be read.
    """
    if config.builder.destination is not None:
        return read_destination(config.builder.destination)
    if config.registry is not None:
        return read_registry(config.registry, config.environment)
    return None


def builder_config(config: AgentConfig, destination: Destination | None) -> BuilderConfig:
    """The builder's settings, with the repository of the destination."""
    repository = None if destination is None else destination.repository
    return config.builder.model_copy(update={"destination": repository})


def _warn_of_deprecated_settings(config: AgentConfig, destination: Destination | None) -> None:
    log = structlog.get_logger()
    if config.registry is not None and destination is not None:
        log.warning(
            "`registry` is deprecated; using builder.destination",
            destination=destination.repository,
        )
    if config.builder.type == "kaniko":
        log.warning(
            "builder.type: kaniko builds with BuildKit here",
            where="the cluster" if config.runners.kubernetes.enabled else "this machine's engine",
        )


async def open_registry(
    stack: AsyncExitStack, context: BackendContext, destination: Destination | None
) -> "OciRegistry":
    """The client of all registries; `stack` closes it.

    Credentials of `docker login` or a credential helper take precedence over those of the cloud.
    """
    from agent.registries import logins
    from agent.registries.oci import OciRegistry

    environment, threads = context.environment, context.threads
    sources: list[LoginSource] = [logins.DockerLogins(environment, threads)]
    match destination:
        case Destination(kind="ecr"):
            sources.append(logins.ecr_logins(destination.host, destination.region, threads))
        case Destination(kind="google"):
            sources.append(logins.google_logins(destination.host, threads))
        case Destination(kind="acr"):
            sources.append(logins.acr_logins(destination.host, threads))
    registry = OciRegistry(sources, environment, ca_bundle=context.config.builder.ca_bundle)
    stack.push_async_callback(registry.close)
    return registry


# ------------------------------------------------------------------------------ sources


def make_sources(
    context: BackendContext, artifacts: "ArtifactPort"
) -> tuple[Sources, tuple[Pruner, ...]]:
    """Where source code and stored jobs are read, and what prunes their caches."""
    from agent.remote.artifacts.reader import CachedArtifacts
    from agent.sources.artifact import ArtifactFetcher
    from agent.sources.git.checkout import apply_patch
    from agent.sources.git.source import GitFetcher

    config = context.config
    git = GitFetcher(
        config.sources.git,
        context.cache / "git",
        policy=address_policy(context),
        threads=context.threads,
        environment=context.environment,
    )
    jobs = CachedArtifacts(artifacts)
    artifact = ArtifactFetcher(jobs, config.sources.code, context.cache / "code", context.threads)
    plugged = plugins.find(plugins.SOURCES)
    plugin_context = context.plugin_context("", "sources")
    sources = Sources(
        git=plugged["git"](plugin_context) if "git" in plugged else git,
        apply_patch=apply_patch,
        artifact=plugged["artifact"](plugin_context) if "artifact" in plugged else artifact,
        jobs=jobs,
    )
    return sources, (
        Pruner("mirrors", config.prune.mirrors, git.prune),
        Pruner("code", config.prune.code, artifact.prune),
    )
