"""`/healthz`, `/readyz` and `/metrics` of the agent, on a port of its own."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from agent.config.agent import HealthConfig
from agent.daemon.attempts import Attempts
from agent.daemon.backend_health import BackendHealth
from agent.daemon.capacity import CapacityTracker
from agent.daemon.heartbeat import HeartbeatLoop
from agent.model.errors import ConfigError
from agent.model.phase import Outcome
from agent.model.protocol import ConditionKind

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class OutcomeCounter(Counter[tuple[str, str]]):
    """Outcomes since this process started, by kind and cause."""

    def observe(self, outcome: Outcome) -> None:
        """Count one."""
        self[type(outcome).__name__.lower(), outcome.cause] += 1


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The parts of the agent that the probes and metrics read."""

    attempts: Attempts
    capacity: CapacityTracker
    backends: BackendHealth
    heartbeat: HeartbeatLoop
    lease_seconds: float
    outcomes: OutcomeCounter

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the control plane answered a heartbeat."""
        return time.monotonic() - self.heartbeat.answered_at

    def problems(self) -> list[str]:
        """Why the agent claims no jobs now; empty when it does."""
        backends, conditions = self.backends, self.heartbeat.conditions.active
        failures = backends.failures if backends.claimable == () else {}
        found = [f"{resource}: {text}" for resource, text in failures.items()]
        found += [one.message for one in conditions if one.kind is ConditionKind.DISK_LOW]
        if self.heartbeat_age > self.lease_seconds:
            found.append(f"control plane: no answer for {self.heartbeat_age:.0f} s")
        if self.heartbeat.draining:
            found.append("shutting down")
        return found


@asynccontextmanager
async def serve_health(config: HealthConfig, status: AgentStatus) -> AsyncIterator[int | None]:
    """Serve during the context; yields the port, or `None` where it is switched off.

    Raises:
        ConfigError: the port is in use.
    """
    if config.port is None:
        yield None
        return
    runner = web.AppRunner(_app(status), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.listen, config.port)
        try:
            await site.start()
        except OSError as error:
            message = f"`health`: {config.listen}:{config.port} cannot be used: {error.strerror}."
            raise ConfigError(message, hint="Choose another `health.port`; 0 picks one.") from error
        port = int(runner.addresses[0][1])
        structlog.get_logger().info(
            "health endpoint listening", address=f"http://{config.listen}:{port}"
        )
        yield port
    finally:
        await runner.cleanup()


def _app(status: AgentStatus) -> web.Application:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(status))

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        problems = status.problems()
        text = "\n".join(problems) or "ok"
        return web.Response(text=f"{text}\n", status=503 if problems else 200)

    async def metrics(_: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=generate_latest(registry), headers=headers)

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


class _Collector:
    """Reads the values at each scrape."""

    def __init__(self, status: AgentStatus) -> None:
        self._status = status

    def collect(self) -> Iterable["Metric"]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        status = self._status
        gauges = {
            "attempts": ("Running attempts.", len(status.attempts)),
            "free_slots": ("Further jobs that the agent can run.", status.capacity.free.slots),
            "heartbeat_age_seconds": (
                "Since the last answered heartbeat.",
                status.heartbeat_age,
            ),
            "backends_down": ("Backends that do not answer.", len(status.backends.failures)),
        }
        for name, (text, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(f"launch_agent_{name}", text, value=value)
        outcomes = CounterMetricFamily(
            "launch_agent_outcomes", "Attempts that ended.", labels=["outcome", "cause"]
        )
        for (outcome, cause), count in status.outcomes.items():
            outcomes.add_metric([outcome, cause], count)
        yield outcomes
