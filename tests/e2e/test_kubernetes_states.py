"""What users are told of jobs that a cluster keeps waiting or takes back, by `launch explain`."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.e2e.harness.home import Home
from tests.e2e.test_kubernetes_jobs import Tenant, tenant
from tests.e2e.test_tour import ok
from tests.infrastructure.kubernetes_account import kubectl

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]
__all__ = ["tenant"]

WAITS = "trap 'exit 143' TERM; while :; do sleep 0.1; done"
#: Seconds for a state to come about, on a busy machine.
PATIENCE = 120.0


async def submit(home: Home, image: str, pod: dict[str, Any], script: str = "true") -> str:
    arguments = {"kubernetes": {"spec": {"template": {"spec": pod}}}}
    config = json.dumps({"resource_args": arguments})
    flags = ("--docker-image", image, "-E", f'sh -c "{script}"', "--config", config, "--json")
    item: str = json.loads(await ok(home, "submit", "--queue", "default", *flags))["id"]
    return item


async def explained(
    home: Home, item: str, wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """What `launch explain` says once it is what is wanted, or at the end of all patience."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while not wanted(await home.item(item)):
                await asyncio.sleep(0.2)
    found: dict[str, Any] = json.loads(await ok(home, "explain", item, "--json"))
    return found


def has_cause(cause: str, phase: str) -> Callable[[dict[str, Any]], bool]:
    return lambda found: (found["explanation"]["cause"], found["phase"]) == (cause, phase)


async def test_states_of_a_cluster_are_explained(
    home: Home, tenant: Tenant, cluster_image: str
) -> None:
    limits = {"pending_timeout": {"image_error": "2s"}}
    home.configure(tenant.settings() | limits)
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    await ok(home, "queue", "update", "default", "--resource", "kubernetes")
    registry = cluster_image.partition("/")[0]

    def init(image: str) -> dict[str, Any]:
        return {"initContainers": [{"name": "fetch", "image": image}]}

    waits = await submit(home, cluster_image, {"nodeSelector": {"gpu": "h100"}})
    missing = await submit(home, cluster_image, init(f"{registry}/tests/no-such-image:1"))
    away = await submit(home, cluster_image, init("127.0.0.1:9/tests/shell:1"))
    taken = await submit(home, cluster_image, {"terminationGracePeriodSeconds": 1}, WAITS)

    told = await explained(home, waits, has_cause("SCHEDULE_NO_NODE", "PERMITTED"))
    assert "1 node(s) didn't match Pod's node affinity/selector" in " ".join(
        told["explanation"]["details"]
    )
    told = await explained(home, missing, has_cause("IMAGE_NOT_FOUND", "ERRORED"))
    assert told["message"] == f"{registry}/tests/no-such-image:1: not found"
    told = await explained(home, away, has_cause("IMAGE_UNAVAILABLE", "ERRORED"))
    assert "it did not run within 2.0 s (`pending_timeout.image_error`" in told["message"]
    assert "connection refused" in told["message"]

    await explained(home, taken, has_cause("RUN_IN_PROGRESS", "STARTED"))
    evict(tenant, f"launch-agent.item={taken}")
    shown: dict[str, Any] = {}
    async with asyncio.timeout(PATIENCE):
        while shown.get("attempt") != 2 or shown["phase"] != "STARTED":
            shown = await home.item(taken)
    assert [each["cause"] for each in shown["attempts"]] == ["PREEMPTED", None]
    for item in (waits, taken):
        await ok(home, "item", "stop", item)
        await explained(home, item, has_cause("STOPPED_BY_USER", "STOPPED"))


def evict(tenant: Tenant, selector: str) -> None:
    cluster, namespace = tenant.cluster, tenant.namespace
    named = "-o=jsonpath={.items[*].metadata.name}"
    (pod,) = kubectl(cluster, "-n", namespace, "get", "pods", f"-l={selector}", named).split()
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    kubectl(cluster, "create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
