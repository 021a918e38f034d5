"""`/healthz`, `/readyz` and `/metrics` of the agent, on a port of its own."""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from agent.config.agent import HealthConfig
from agent.daemon.attempts import Attempts
from agent.daemon.capacity import Ledger
from agent.daemon.engines import EngineWatch
from agent.daemon.heartbeat import HeartbeatLoop
from agent.daemon.tally import Tally
from agent.model.errors import ConfigError
from agent.model.protocol import ConditionKind

if TYPE_CHECKING:
    from prometheus_client.core import Metric


@dataclass(frozen=True, slots=True)
class Vitals:
    """Where the answers come from."""

    attempts: Attempts
    ledger: Ledger
    engines: EngineWatch
    heartbeat: HeartbeatLoop
    tally: Tally
    lease_seconds: float

    def complaints(self) -> list[str]:
        """Why the agent takes no jobs now; empty when it does."""
        engines, conditions = self.engines, self.heartbeat.conditions.now
        silenced = engines.down if engines.usable == () else {}
        found = [f"{resource}: {text}" for resource, text in silenced.items()]
        found += [one.message for one in conditions if one.kind is ConditionKind.DISK_LOW]
        silent = time.monotonic() - self.heartbeat.answered_at
        if silent > self.lease_seconds:
            found.append(f"control plane: no answer for {silent:.0f} s")
        if self.heartbeat.draining:
            found.append("leaving")
        return found


@asynccontextmanager
async def serving(config: HealthConfig, vitals: Vitals) -> AsyncIterator[int | None]:
    """Serve while the context lasts; gives the port, or `None` where it is switched off.

    Raises:
        ConfigError: the port is in use.
    """
    if config.port is None:
        yield None
        return
    runner = web.AppRunner(_app(vitals), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.listen, config.port)
        try:
            await site.start()
        except OSError as error:
            message = f"`health`: {config.listen}:{config.port} cannot be used: {error.strerror}."
            raise ConfigError(message, hint="Choose another `health.port`; 0 picks one.") from error
        port = int(runner.addresses[0][1])
        structlog.get_logger().info("health", address=f"http://{config.listen}:{port}")
        yield port
    finally:
        await runner.cleanup()


def _app(vitals: Vitals) -> web.Application:
    render = _renderer(vitals)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        found = vitals.complaints()
        text = "\n".join(found) or "ok"
        return web.Response(text=f"{text}\n", status=503 if found else 200)

    async def metrics(_: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=render(), headers=headers)

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def _renderer(vitals: Vitals) -> Callable[[], bytes]:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(vitals))
    return lambda: generate_latest(registry)


class _Collector:
    """Reads the values when they are asked for, so that nothing has to be kept up to date."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals

    def collect(self) -> Iterable["Metric"]:
        from prometheus_client.core import CounterMetricFamily

        vitals = self._vitals
        slots = vitals.ledger.free.slots
        silent = time.monotonic() - vitals.heartbeat.answered_at
        yield _gauge("attempts", "Attempts under way.", len(vitals.attempts))
        if slots is not None:
            yield _gauge("free_slots", "Further jobs it could take.", slots)
        yield _gauge("heartbeat_age_seconds", "Since the last answered heartbeat.", silent)
        yield _gauge("engines_down", "Engines that do not answer.", len(vitals.engines.down))
        counted = CounterMetricFamily(
            "launch_agent_outcomes", "Attempts that ended.", labels=["outcome", "cause"]
        )
        for (outcome, cause), count in vitals.tally.counts.items():
            counted.add_metric([outcome, cause], count)
        yield counted


def _gauge(name: str, text: str, value: float) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"launch_agent_{name}", text, value=value)
