"""Chooses what builds images for a cluster: pods, a `buildkitd`, this machine's engine, nothing."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent.config.execution import BuilderConfig, KubernetesRunnerConfig

if TYPE_CHECKING:
    from agent.runners.kubernetes.build_pods import BuildPods


@dataclass(frozen=True, slots=True)
class BuilderChoice:
    """What builds, and why it was chosen."""

    kind: Literal["nothing", "buildkitd", "pods", "engine"]
    because: str


def choose_cluster_builder(config: BuilderConfig, engine_failure: str | None) -> BuilderChoice:
    """The first that the configuration allows.

    `engine_failure` is why this machine's container engine does not answer; it counts with `auto`.
    """
    because = f"`builder.type: {config.type}`"
    match config.type:
        case "noop" | "virtualenv":
            return BuilderChoice("nothing", because)
        case _ if config.destination is None:
            missing = "`builder.destination` is not set, from which the cluster's nodes would pull"
            return BuilderChoice("nothing", missing)
        case _ if config.buildkit is not None:
            return BuilderChoice("buildkitd", f"`builder.buildkit: {config.buildkit}`")
        case "docker":
            return BuilderChoice("engine", because)
        case "auto" if engine_failure is None:
            return BuilderChoice("engine", "this machine's container engine answers")
    if config.type == "auto":
        because = f"no container engine answers: {engine_failure}"
    return BuilderChoice("pods", because)


async def build_pods(
    stack: AsyncExitStack, runner: KubernetesRunnerConfig, config: BuilderConfig
) -> "BuildPods":
    """BuildKit in pods of the jobs' cluster; `stack` closes its connections.

    Raises:
        ConfigError: the cluster's credentials cannot be used.
    """
    from agent.runners.kubernetes.api import ClusterApi
    from agent.runners.kubernetes.build_pods import BuildPods

    api = await stack.enter_async_context(ClusterApi(runner))
    return BuildPods(api, runner, config)
