"""Whether the engines answer: nothing is claimed for one that does not."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from agent.daemon.conditions import Conditions
from agent.model.errors import LaunchError
from agent.model.protocol import ConditionKind
from agent.pipeline.dependencies import Backend
from agent.ports.runner import RunnerPort

#: Seconds between looks, and for one.
_INTERVAL: Final = 10.0
_PATIENCE: Final = 10.0
#: A name that no workload has: looking for it asks the engine, and costs it little.
_PROBE: Final = "launch-probe"


class EngineWatch:
    """A loop that looks at every engine, and what it saw last.

    `narrow`: claims may name resources, so that one silent engine leaves the others at work.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        conditions: Conditions,
        *,
        narrow: bool,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lanes = backends
        self._conditions = conditions
        self._narrow = narrow
        self._sleep = sleep
        self._down: dict[str, str] = {}
        self._changed = asyncio.Event()

    @property
    def down(self) -> Mapping[str, str]:
        """What is wrong, by resource."""
        return self._down

    @property
    def usable(self) -> tuple[str, ...] | None:
        """Resources to claim for; `None`: all that there are, and empty: none."""
        if not self._down:
            return None
        up = tuple(resource for resource in self._lanes if resource not in self._down)
        return up if self._narrow else ()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            for resource, backend in self._lanes.items():
                self._note(resource, await self._complaint(backend.runner))
            await self._sleep(_INTERVAL)

    async def one_usable(self) -> None:
        """Wait until there is something to claim for."""
        while self.usable == ():
            await self._changed.wait()

    async def changed_from(self, usable: tuple[str, ...] | None) -> None:
        """Wait until what is usable is something else."""
        while self.usable == usable:
            await self._changed.wait()

    async def _complaint(self, runner: RunnerPort) -> str | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await runner.find(_PROBE)
        except TimeoutError:
            return f"no answer within {_PATIENCE:.0f} s"
        except (LaunchError, OSError) as error:
            return str(error)
        return None

    def _note(self, resource: str, complaint: str | None) -> None:
        if (complaint is None) == (resource not in self._down):
            return
        log = structlog.get_logger().bind(resource=resource)
        if complaint is None:
            del self._down[resource]
            self._conditions.lift(ConditionKind.ENGINE_SILENT, resource)
            log.info("the engine answers again; claiming goes on")
        else:
            self._down[resource] = complaint
            message = f"the engine behind {resource} does not answer ({complaint.rstrip('.')})."
            self._conditions.note(ConditionKind.ENGINE_SILENT, message, resource)
            log.error("the engine does not answer; nothing is claimed for it", error=complaint)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
