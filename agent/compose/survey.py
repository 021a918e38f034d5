"""What this machine offers to jobs: engines, cores, memory, GPUs."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeVar

from agent import plugins
from agent.config.agent import AgentConfig
from agent.config.execution import OfferedResources
from agent.model.capacity import Capacity
from agent.model.errors import ConfigError
from agent.system import machine

Number = TypeVar("Number", int, float)

CONTAINERS: Final = "local-container"
PROCESSES: Final = "local-process"
#: Seconds for an engine to answer at start.
_PATIENCE: Final = 10.0


async def offered_resources(config: AgentConfig, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What jobs can run on here; a new default queue takes the first.

    Raises:
        ConfigError: nothing is left, or an engine that must be there does not answer.
    """
    found = [CONTAINERS] if await _containers(config, environment) else []
    processes = config.runners.local_process.enabled
    if processes is True or (processes == "auto" and not found):
        found.append(PROCESSES)
    if config.builder.type == "kaniko" and CONTAINERS not in found:
        message = (
            "`builder.type: kaniko` builds in a cluster, which this agent does not yet do, and "
            "no container engine of this machine can build in its place."
        )
        hint = "Start the engine, or set `builder.type` to auto."
        raise ConfigError(message, hint=hint)
    found += plugins.find(plugins.RUNNERS)
    if not found:
        message = "No runner is left: this agent could run nothing."
        raise ConfigError(message, hint="Set `enabled: auto` below `runners`.")
    return tuple(found)


async def _containers(config: AgentConfig, environment: Mapping[str, str]) -> bool:
    wanted = config.runners.local_container.enabled
    if wanted is False:
        return False
    host = config.runners.local_container.host
    complaint = await engine_complaint(host, environment)
    if complaint is not None and wanted is True:
        message = f"The container engine does not answer: {complaint}."
        hint = "Start it, or set `runners.local-container.enabled` to auto or false."
        raise ConfigError(message, hint=hint)
    return complaint is None


async def engine_complaint(host: str | None, environment: Mapping[str, str]) -> str | None:
    """Why no container engine can be used; `None` when one answers."""
    from agent.docker.client import Engine
    from agent.docker.errors import EngineError

    try:
        async with asyncio.timeout(_PATIENCE), Engine(host, environment) as engine:
            await engine.get("/version")
    except TimeoutError:
        return f"no answer within {_PATIENCE:.0f} s"
    except EngineError as error:
        return error.detail
    except ConfigError as error:
        return str(error).rstrip(".")
    return None


async def capacity(offered: OfferedResources, max_jobs: int) -> Capacity:
    """What the agent advertises; `auto` is measured now."""
    return Capacity(
        slots=None if max_jobs < 0 else max_jobs,
        cpus=_measured(offered.cpus, machine.cores),
        memory=_measured(offered.memory, machine.memory),
        gpus=await machine.gpus() if offered.gpus == "auto" else offered.gpus,
    )


def _measured(
    said: Number | Literal["auto", "unlimited"], measure: Callable[[], Number]
) -> Number | None:
    match said:
        case "unlimited":
            return None
        case "auto":
            return measure()
        case _:
            return said
