"""Health checks of the backends: nothing is claimed for a backend that does not answer."""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from agent.daemon.conditions import Conditions
from agent.model.errors import LaunchError
from agent.model.protocol import ConditionKind
from agent.pipeline.backoff import Sleep
from agent.pipeline.dependencies import Backend
from agent.ports.runner import RunnerPort

#: Seconds between checks, and for one.
_INTERVAL: Final = 10.0
_TIMEOUT: Final = 10.0
#: A name that no workload has: looking it up is a cheap request that the engine must answer.
_PROBE: Final = "launch-probe"


class BackendHealth:
    """Checks every backend periodically, and holds the latest results."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        conditions: Conditions,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._backends = backends
        self._conditions = conditions
        self._sleep = sleep
        self._failures: dict[str, str] = {}
        self._changed = asyncio.Event()

    @property
    def failures(self) -> Mapping[str, str]:
        """Why a backend does not answer, by resource; the others do."""
        return self._failures

    @property
    def claimable(self) -> tuple[str, ...] | None:
        """Resources to claim for; `None` means all that are registered, empty means none."""
        if not self._failures:
            return None
        return tuple(resource for resource in self._backends if resource not in self._failures)

    async def run(self) -> None:
        """Check all backends every ten seconds; never returns."""
        while True:
            for resource, backend in self._backends.items():
                self._update(resource, await self._failure(backend.runner))
            await self._sleep(_INTERVAL)

    async def wait_changed(self, claimable: tuple[str, ...] | None) -> None:
        """Wait until `claimable` differs from the given value."""
        while self.claimable == claimable:
            await self._changed.wait()

    async def _failure(self, runner: RunnerPort) -> str | None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                await runner.find(_PROBE)
        except TimeoutError:
            return f"no answer within {_TIMEOUT:.0f} s"
        except (LaunchError, OSError) as error:
            return str(error)
        return None

    def _update(self, resource: str, failure: str | None) -> None:
        if (failure is None) == (resource not in self._failures):
            return
        log = structlog.get_logger().bind(resource=resource)
        if failure is None:
            del self._failures[resource]
            self._conditions.clear(ConditionKind.ENGINE_UNREACHABLE, resource)
            log.info("the backend answers again; claims for it resume")
        else:
            self._failures[resource] = failure
            message = f"the engine behind {resource} does not answer ({failure.rstrip('.')})."
            self._conditions.set(ConditionKind.ENGINE_UNREACHABLE, message, resource)
            log.error("the backend does not answer; nothing is claimed for it", error=failure)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
