"""Prometheus metrics: items by queue and phase, agents, durations of requests."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agent.control.auth.policy import SYSTEM
from agent.control.services.assembly import Services

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one app, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Histogram(
            "launch_http_request_seconds",
            "Duration of requests, claims and followed logs excepted.",
            ("route", "status"),
            buckets=_FAST,
            registry=self._registry,
        )
        self.claims = Histogram(
            "launch_claim_seconds",
            "Duration of claims, waiting included, by whether an item was claimed.",
            ("outcome",),
            buckets=_FAST,
            registry=self._registry,
        )
        self.errors = Counter(
            "launch_graphql_errors",
            "Errors in GraphQL responses, by code.",
            ("code",),
            registry=self._registry,
        )
        self._items = Gauge(
            "launch_queue_items", "Items.", ("entity", "queue", "phase"), registry=self._registry
        )
        self._agents = Gauge(
            "launch_agents", "Agents.", ("entity", "status"), registry=self._registry
        )
        self._stored = Gauge(
            "launch_stored_bytes",
            "Bytes of artifacts, logs and files of runs.",
            ("entity", "kind"),
            registry=self._registry,
        )

    async def expose(self, plane: Services) -> bytes:
        """The metrics as text for Prometheus; gauges are read from the store."""
        self._items.clear()
        self._agents.clear()
        self._stored.clear()
        for row in await plane.stored.every():
            self._stored.labels(row.entity, row.kind).set(row.bytes)
        for entity in [each.name for each in await plane.accounts.entities(SYSTEM)]:
            queues = {queue.id: queue.name for queue in await plane.queues.list(SYSTEM, entity)}
            counts = await plane.queues.counts(SYSTEM, list(queues))
            for queue_id, phases in counts.items():
                for phase, count in phases.items():
                    self._items.labels(entity, queues[queue_id], phase.value.lower()).set(count)
            for agent in await plane.agents.list(SYSTEM, entity):
                status = "lost" if agent.lost else agent.status.lower()
                self._agents.labels(entity, status).inc()
        return generate_latest(self._registry)
