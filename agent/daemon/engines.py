"""Whether the engines answer: nothing is claimed while one does not."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from agent.model.errors import LaunchError
from agent.pipeline.equipment import Lane
from agent.ports.runner import RunnerPort

#: Seconds between looks, and for one.
_INTERVAL: Final = 10.0
_PATIENCE: Final = 10.0
#: A name that no workload has: looking for it asks the engine, and costs it little.
_PROBE: Final = "launch-probe"


class EngineWatch:
    """A loop that looks at every engine, and what it saw last."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lanes = lanes
        self._sleep = sleep
        self._down: dict[str, str] = {}
        self._changed = asyncio.Event()

    @property
    def down(self) -> Mapping[str, str]:
        """What is wrong, by resource."""
        return self._down

    async def run(self) -> None:
        """Look for ever."""
        while True:
            for resource, lane in self._lanes.items():
                self._note(resource, await self._complaint(lane.runner))
            await self._sleep(_INTERVAL)

    async def all_up(self) -> None:
        """Wait until every engine answers."""
        while self._down:
            await self._changed.wait()

    async def one_down(self) -> None:
        """Wait until an engine does not."""
        while not self._down:
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
            log.info("the engine answers again; claiming goes on")
        else:
            self._down[resource] = complaint
            log.error("the engine does not answer; nothing is claimed", error=complaint)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
