"""One backend for each resource: its runner, what builds for it, and how its jobs call home."""

from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import structlog
from yarl import URL

from agent import plugins
from agent.compose.registries import (
    builder_config,
    destination_of,
    open_registry,
    say_what_is_old,
)
from agent.compose.survey import CONTAINERS, PROCESSES
from agent.config.agent import AgentConfig
from agent.config.execution import BuilderConfig
from agent.daemon.pruning import Pruner
from agent.daemon.service import Backends
from agent.model.errors import ConfigError
from agent.pipeline.dependencies import Backend
from agent.ports.builder import BuilderPort
from agent.ports.registry import RegistryPort

if TYPE_CHECKING:
    from agent.builders.docker.builder import DockerBuilder
    from agent.builders.nothing import NoBuilder
    from agent.builders.virtualenv import VirtualenvBuilder
    from agent.control.server import ControlPlane
    from agent.docker.client import Engine


@dataclass(frozen=True, slots=True)
class BackendContext:
    """What is shared by everything that is made for one agent."""

    config: AgentConfig
    environment: Mapping[str, str] = field(repr=False)
    threads: Executor
    #: Address by which this process reaches the control plane.
    url: str
    #: The plane, where it is this process's own.
    plane: "ControlPlane | None"
    resources: tuple[str, ...]
    #: The plane is embedded in another process here, which listens on the gateway as well.
    neighbour: bool = False

    @property
    def cache(self) -> Path:
        """Everything that can be made again."""
        return self.config.state_dir / "cache"

    def plugin_context(self, control_plane_id: str, name: str) -> plugins.PluginContext:
        """What plugins are made with."""
        folder = self.cache / name
        return plugins.PluginContext(control_plane_id, folder, self.threads, self.environment)


@dataclass(frozen=True, slots=True)
class _Made:
    backend: Backend
    pruners: tuple[Pruner, ...] = ()


async def open_backends(
    stack: AsyncExitStack, shop: BackendContext, control_plane_id: str, pruners: tuple[Pruner, ...]
) -> Backends:
    """Open engines and make a backend for every resource; `stack` closes them.

    `pruners` are those of parts that belong to no backend.

    Raises:
        JobError: `LOST_ENGINE`: the engine went away since it was looked for.
        ConfigError: a network, a user or a plugin cannot be used.
    """
    builders = plugins.find(plugins.BUILDERS)
    made: dict[str, _Made] = {}
    for resource in shop.resources:
        one = await _made(stack, shop, control_plane_id, resource)
        if resource in builders:
            builder = builders[resource](shop.plugin_context(control_plane_id, resource))
            one = replace(one, backend=replace(one.backend, builder=builder))
        made[resource] = one
    every = [*pruners, *(pruner for one in made.values() for pruner in one.pruners)]
    return Backends({resource: one.backend for resource, one in made.items()}, every)


async def _made(
    stack: AsyncExitStack, shop: BackendContext, control_plane_id: str, resource: str
) -> _Made:
    if resource == CONTAINERS:
        return await _containers(stack, shop, control_plane_id)
    if resource == PROCESSES:
        return _processes(shop, control_plane_id)
    factory = plugins.find(plugins.RUNNERS)[resource]
    runner = factory(shop.plugin_context(control_plane_id, resource))
    return _Made(Backend(runner, None, None, shop.url))


async def _containers(stack: AsyncExitStack, shop: BackendContext, control_plane_id: str) -> _Made:
    from agent.builders.prebuilt import ReadyImages
    from agent.docker.client import Engine
    from agent.runners.docker.runner import DockerRunner

    config = shop.config.runners.local_container
    marks = shop.config.state_dir / "containers"
    runner = DockerRunner(control_plane_id, config, shop.threads, state_dir=marks)
    stack.push_async_callback(runner.close)
    gateway = await runner.ensure_network()
    engine = await stack.enter_async_context(Engine(config.host, shop.environment))
    destination = destination_of(shop.config)
    say_what_is_old(shop.config, destination)
    registry = await open_registry(stack, shop.config, destination, shop.threads, shop.environment)
    images = ReadyImages(engine, pull=config.pull, registry=registry)
    builder = _container_builder(shop, engine, builder_config(shop.config, destination), registry)
    backend = Backend(runner, builder, images, await _address_for(shop, gateway))
    return _Made(backend, _image_pruners(shop, builder))


async def _address_for(shop: BackendContext, gateway: str) -> str:
    """The plane's address as containers reach it: an embedded one listens there as well."""
    if shop.neighbour and not shop.config.runners.local_container.host_network:
        return str(URL(shop.url).with_host(gateway))
    if shop.plane is None or shop.config.runners.local_container.host_network:
        return shop.url
    try:
        return await shop.plane.listen_also(gateway)
    except ConfigError as error:
        # The engine lives in another network or on another machine: its gateway is not here.
        # Jobs that talk to nobody still run.
        url = shop.config.control.external_url or shop.url
        structlog.get_logger().warning(
            "containers may not reach the control plane; set control.external_url",
            tried=gateway,
            given_to_jobs=url,
            error=error.message,
        )
        return url


def _container_builder(
    shop: BackendContext, engine: "Engine", config: BuilderConfig, registry: RegistryPort
) -> "DockerBuilder | NoBuilder":
    from agent.builders.docker.builder import DockerBuilder
    from agent.builders.nothing import NoBuilder

    match config.type:
        # W&B's files name kaniko on machines without a cluster, too.
        case "auto" | "docker" | "kaniko":
            return DockerBuilder(
                config,
                engine,
                shop.cache / "builds",
                threads=shop.threads,
                environment=shop.environment,
                registry=registry,
            )
        case "noop" | "virtualenv":
            return NoBuilder(config.type)
        case _:
            assert_never(config.type)


def _image_pruners(
    shop: BackendContext, builder: "DockerBuilder | NoBuilder"
) -> tuple[Pruner, ...]:
    rules = shop.config.prune
    return (
        Pruner("images", rules.images, builder.prune),
        Pruner("build cache", rules.build_cache, builder.prune_cache),
    )


def _processes(shop: BackendContext, control_plane_id: str) -> _Made:
    from agent.builders.nothing import NoBuilder
    from agent.runners.process.runner import ProcessRunner

    runner = ProcessRunner(
        shop.config.state_dir / "processes",
        control_plane_id,
        shop.config.runners.local_process,
        shop.threads,
        shop.environment,
    )
    environments = _environments(shop)
    # Containers cannot be built for processes: whatever builds images, these get
    # environments, unless the administrator wants nothing built at all.
    builder: BuilderPort = environments
    if shop.config.builder.type == "noop":
        builder = NoBuilder("noop")
    pruner = Pruner("environments", shop.config.prune.environments, environments.prune)
    return _Made(Backend(runner, builder, None, shop.url), (pruner,))


def _environments(shop: BackendContext) -> "VirtualenvBuilder":
    from agent.builders.virtualenv import VirtualenvBuilder

    return VirtualenvBuilder(
        shop.config.builder,
        shop.cache / "python",
        threads=shop.threads,
        environment=shop.environment,
    )
