"""`additional_services` on the real cluster: they are ready before the job, and go with it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.ports.runner import RunRequest, Started
from agent.testing.runner_suite import Scenario, ended, read_all
from tests.contract.kubernetes_driver import KubernetesDriver
from tests.contract.lossy_api import credentials_proxy, lossy_api
from tests.infrastructure.state import KubernetesFacts

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]

KINDS = "deployments,replicasets,services,pods,secrets,jobs"


@pytest.fixture
async def driver(
    tmp_path: Path, kubernetes_cluster: KubernetesFacts, cluster_image: str
) -> AsyncIterator[KubernetesDriver]:
    with credentials_proxy(kubernetes_cluster) as address:
        async with lossy_api(address) as api:
            driver = KubernetesDriver(tmp_path, kubernetes_cluster, cluster_image, api)
            await driver.prepare(2)
            yield driver
            await driver.clear()


def services(driver: KubernetesDriver, ready: str = "true") -> tuple[dict[str, Any], ...]:
    """A Deployment whose pod is ready once `ready` succeeds in it, and the Service before it."""
    container = {
        "name": "side",
        "image": driver.image.reference,
        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait"],
        "readinessProbe": {"exec": {"command": ["sh", "-c", ready]}, "periodSeconds": 1},
    }
    pod = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    labels = {"app": "side"}
    deployment = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    return (
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "side"},
            "spec": deployment,
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "side"},
            "spec": {"selector": labels, "ports": [{"port": 80}]},
        },
    )


def request_of(
    driver: KubernetesDriver, beside: tuple[dict[str, Any], ...], **arguments: Any
) -> RunRequest:
    """A job that prints the address that its side service has for it."""
    request = driver.request(Scenario(output=b"", waits=False))
    command = ("sh", "-c", "echo port ${SIDE_SERVICE_PORT}")
    more = {**request.arguments, **arguments}
    return replace(request, arguments=more, command=command, services=beside)


async def objects(driver: KubernetesDriver, kinds: str = KINDS) -> list[str]:
    found = await asyncio.to_thread(
        driver.kubectl, "-n", driver.namespace, "get", kinds, "-o", "json"
    )
    return [f"{one['kind']}/{one['metadata']['name']}" for one in json.loads(found)["items"]]


async def nothing_left(driver: KubernetesDriver) -> None:
    async with asyncio.timeout(120):
        while await objects(driver):
            await asyncio.sleep(0.2)


async def test_side_services_are_ready_before_the_job_and_go_with_it(
    driver: KubernetesDriver,
) -> None:
    runner = driver.runner()
    created = await runner.create(request_of(driver, services(driver)))
    ready = ("get", "deployment", "side", "-o=jsonpath={.status.readyReplicas}")
    assert driver.kubectl("-n", driver.namespace, *ready) == "1"
    started = await runner.start(created)
    assert isinstance(started, Started)
    assert (await ended(runner, created)).exit_code == 0
    assert await read_all(runner, created) == b"port 80\n"
    await runner.destroy(created)
    await nothing_left(driver)


async def test_a_job_whose_side_service_is_not_ready_in_time_leaves_nothing(
    driver: KubernetesDriver,
) -> None:
    request = request_of(driver, services(driver, ready="false"), wait_timeout=5)
    with pytest.raises(JobError, match="The side service 'side' is not ready after 5 s") as failed:
        await driver.runner().create(request)
    assert failed.value.cause is Cause.START_SERVICE
    await nothing_left(driver)


async def test_what_another_process_left_half_done_is_completed_before_the_start(
    driver: KubernetesDriver,
) -> None:
    """It had created the Secret and died."""
    request = request_of(driver, services(driver), wait_for_ready=False)
    created = await driver.runner().create(request)
    await asyncio.to_thread(
        driver.kubectl, "-n", driver.namespace, "delete", "deployment,service", "side"
    )
    adopter = driver.runner()
    assert isinstance(await adopter.start(created), Started)
    assert {"Deployment/side", "Service/side"} <= set(await objects(driver))
    await adopter.destroy(created)
    await nothing_left(driver)


async def test_a_name_that_is_taken_is_told_and_left_alone(driver: KubernetesDriver) -> None:
    theirs = ("create", "service", "clusterip", "side", "--tcp=80")
    driver.kubectl("-n", driver.namespace, *theirs)
    with pytest.raises(JobError, match="'side' of a side service is taken by another Service"):
        await driver.runner().create(request_of(driver, services(driver)))
    async with asyncio.timeout(120):
        while await objects(driver) != ["Service/side"]:
            await asyncio.sleep(0.2)
