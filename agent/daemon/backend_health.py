"""Health of the backends: nothing is claimed for a backend that does not answer.

Each backend is probed every ten seconds, and at once when an attempt reports that it failed.
While it fails, it is probed at least once a second, so that claims resume soon after its return.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from agent.daemon.conditions import Conditions
from agent.model.cause import Cause
from agent.model.errors import LaunchError, UnavailableError
from agent.model.protocol import ConditionKind
from agent.pipeline.dependencies import Backend
from agent.ports.builder import BuilderPort
from agent.ports.runner import RunnerPort
from agent.system.backoff import Backoff, Sleep
from agent.system.tasks import race, task_group

#: Seconds between probes of a backend that answers, and for one probe.
_INTERVAL: Final = 10.0
_TIMEOUT: Final = 10.0
#: Longest time between probes of one that does not answer: a probe costs one small call.
_MAX_PAUSE_SECONDS: Final = 1.0
#: Longest pause of claims while attempts report failures and the backend itself answers.
_MAX_HOLD_SECONDS: Final = 60.0
#: A name that no workload has: looking it up is a cheap request that the engine must answer.
_PROBE_NAME: Final = "launch-probe"
_KINDS: Final = {
    Cause.DISK_FULL: ConditionKind.DISK_LOW,
    Cause.BUILD_UNAVAILABLE: ConditionKind.BUILDER_UNREACHABLE,
    Cause.IMAGE_UNAVAILABLE: ConditionKind.BUILDER_UNREACHABLE,
}


@dataclass(slots=True)
class _Health:
    """What is known about one backend."""

    failure: UnavailableError | None = None
    #: Failures that attempts reported: a probe that began before a report proves nothing.
    reports: int = 0
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    #: Pauses of claims after reports; they grow until an attempt succeeds.
    hold: Backoff = field(default_factory=lambda: Backoff(first=1.0, longest=_MAX_HOLD_SECONDS))


class BackendHealth:
    """`BackendState`, and the checks; holds the latest result for each resource."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        conditions: Conditions,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._backends = backends
        self._conditions = conditions
        self._sleep = sleep
        self._health = {resource: _Health() for resource in backends}
        self._changed = asyncio.Event()

    @property
    def failures(self) -> Mapping[str, str]:
        """Why a backend does not answer, by resource; the others do."""
        states = self._health.items()
        return {name: str(one.failure) for name, one in states if one.failure is not None}

    @property
    def claimable(self) -> tuple[str, ...] | None:
        """Resources to claim for; `None` means all that are registered, empty means none."""
        states = self._health.items()
        able = tuple(resource for resource, health in states if health.failure is None)
        return None if len(able) == len(self._health) else able

    async def wait_changed(self, claimable: tuple[str, ...] | None) -> None:
        """Wait until `claimable` differs from the given value."""
        while self.claimable == claimable:
            await self._changed.wait()

    def failed(self, resource: str, error: UnavailableError) -> None:
        """See `BackendState`."""
        health = self._health[resource]
        health.reports += 1
        health.reported.set()
        self._set(resource, error)

    def worked(self, resource: str) -> None:
        """See `BackendState`."""
        self._health[resource].hold.reset()

    async def check(self, resource: str) -> UnavailableError | None:
        """See `BackendState`."""
        failure = await self._probe(resource, with_builder=True)
        if failure is not None:
            self.failed(resource, failure)
        return failure

    async def run(self) -> None:
        """Probe all backends; never returns."""
        async with task_group() as group:
            for resource in self._backends:
                group.create_task(self._watch(resource), name=f"health-{resource}")

    async def _watch(self, resource: str) -> None:
        health, pauses = self._health[resource], Backoff(first=0.25, longest=_MAX_PAUSE_SECONDS)
        while True:
            reports = health.reports
            failure = await self._probe(resource, with_builder=health.failure is not None)
            if failure is not None or health.reports == reports:
                self._set(resource, failure)
            if health.failure is None:
                pauses.reset()
                await race(health.reported.wait(), self._sleep(_INTERVAL))
            if health.reported.is_set():
                health.reported.clear()
                await self._sleep(health.hold.pause())
            elif health.failure is not None:
                await self._sleep(pauses.pause())

    async def _probe(self, resource: str, *, with_builder: bool) -> UnavailableError | None:
        backend = self._backends[resource]
        failure = await _failure_of_runner(backend.runner, resource)
        if failure is None and with_builder and backend.builder is not None:
            return await _failure_of_builder(backend.builder, resource)
        return failure

    def _set(self, resource: str, failure: UnavailableError | None) -> None:
        health = self._health[resource]
        before, health.failure = health.failure, failure
        kind = None if failure is None else _kind_of(failure)
        if before is not None and _kind_of(before) is not kind:
            self._conditions.clear(_kind_of(before), resource)
        if failure is not None and kind is not None:
            self._conditions.set(kind, failure.message, resource)
        if (before is None) == (failure is None):
            return
        log = structlog.get_logger().bind(resource=resource)
        if failure is None:
            log.info("the backend answers again; claims for it resume")
        else:
            log.error("the backend fails; nothing is claimed for it", error=str(failure))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _kind_of(failure: UnavailableError) -> ConditionKind:
    return _KINDS.get(failure.cause, ConditionKind.ENGINE_UNREACHABLE)


async def _failure_of_runner(runner: RunnerPort, resource: str) -> UnavailableError | None:
    try:
        async with asyncio.timeout(_TIMEOUT):
            await runner.find(_PROBE_NAME)
    except TimeoutError:
        reason = f"no answer within {_TIMEOUT:.0f} s"
    except (LaunchError, OSError) as error:
        reason = str(error).rstrip(".")
    else:
        return None
    message = f"the engine behind {resource} does not answer ({reason})."
    return UnavailableError(Cause.LOST_ENGINE, message)


async def _failure_of_builder(builder: BuilderPort, resource: str) -> UnavailableError | None:
    try:
        await builder.check()
    except UnavailableError as error:
        return error
    except (LaunchError, OSError) as error:
        message = f"the builder of {resource} does not answer ({str(error).rstrip('.')})."
        return UnavailableError(Cause.BUILD_UNAVAILABLE, message)
    return None
