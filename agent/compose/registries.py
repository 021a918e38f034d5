"""The registries of one agent: where it pushes to, and who lets it in."""

from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, assert_never

import structlog

from agent.config.agent import AgentConfig
from agent.config.execution import BuilderConfig
from agent.registries.destination import Destination, read_destination, read_registry

if TYPE_CHECKING:
    from agent.registries.login import LoginSource
    from agent.registries.oci import OciRegistry


def destination_of(config: AgentConfig) -> Destination | None:
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
    """The builder's settings with the destination as it was read."""
    repository = None if destination is None else destination.repository
    return config.builder.model_copy(update={"destination": repository})


def say_what_is_old(config: AgentConfig, destination: Destination | None) -> None:
    """Remarks on W&B's older words, for the log."""
    log = structlog.get_logger()
    if config.registry is not None and destination is not None:
        log.warning(
            "`registry` is W&B's old form: use builder.destination", means=destination.repository
        )
    if config.builder.type == "kaniko":
        log.warning(
            "builder.type: kaniko builds in a cluster, which this agent does not yet do: "
            "BuildKit builds on this machine's container engine instead"
        )


async def open_registry(
    stack: AsyncExitStack,
    config: AgentConfig,
    destination: Destination | None,
    threads: Executor,
    environment: Mapping[str, str],
) -> "OciRegistry":
    """One door to all registries; `stack` closes it.

    What `docker login` or a credential helper gives counts first, then the cloud's library.
    """
    from agent.registries.docker_config import DockerLogins
    from agent.registries.oci import OciRegistry

    logins: list[LoginSource] = [DockerLogins(environment, threads)]
    if destination is not None:
        logins += _cloud_logins(destination, threads)
    registry = OciRegistry(logins, environment, ca_bundle=config.builder.ca_bundle)
    stack.push_async_callback(registry.close)
    return registry


def _cloud_logins(destination: Destination, threads: Executor) -> list["LoginSource"]:
    match destination.kind:
        case "oci":
            return []
        case "ecr":
            from agent.registries.ecr import ecr_logins

            return [ecr_logins(destination.host, destination.region, threads)]
        case "google":
            from agent.registries.google import google_logins

            return [google_logins(destination.host, threads)]
        case "acr":
            from agent.registries.acr import acr_logins

            return [acr_logins(destination.host, threads)]
        case _:
            assert_never(destination.kind)
