"""Jobs of many containers, their stop and their removal, on the real cluster."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.ports.runner import LOG_START, Ended, LogPiece, RunRequest, Started, StartUnknown
from agent.runners.kubernetes.runner import KubernetesRunner
from agent.testing.runner_suite import Scenario, ended, launched, read_all
from tests.contract.kubernetes_driver import KubernetesDriver
from tests.contract.lossy_api import credentials_proxy, lossy_api
from tests.infrastructure.state import KubernetesFacts

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]


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


def shell(driver: KubernetesDriver, name: str, script: str, **more: Any) -> dict[str, Any]:
    command = ["sh", "-c", script]
    return {"name": name, "image": driver.image.reference, "command": command, **more}


def request_of(driver: KubernetesDriver, pod: dict[str, Any], **spec: Any) -> RunRequest:
    """A job with a pod template of its own, whose containers have their own commands."""
    template = {"spec": {"terminationGracePeriodSeconds": 1, **pod}}
    arguments = {"spec": {**spec, "template": template}}
    return replace(driver.request(Scenario()), arguments=arguments, command=())


async def test_every_container_of_every_pod_is_in_the_log(driver: KubernetesDriver) -> None:
    pod = {
        "initContainers": [
            shell(driver, "prepare", "echo prepared"),
            shell(driver, "side", "echo beside; sleep 600", restartPolicy="Always"),
        ],
        "containers": [
            shell(driver, "main", "for i in 1 2 3; do echo line $i; done; printf end"),
            shell(driver, "other", "echo other"),
        ],
    }
    runner = driver.runner()
    request = request_of(driver, pod, parallelism=2, completions=2)
    workload = await launched(runner, request)
    live = (await read_all(runner, workload)).decode().splitlines()
    ending = await ended(runner, workload)
    assert ending.exit_code == 0
    late = (await read_all(driver.runner(), workload)).decode().splitlines()
    assert Counter(live) == Counter(late)
    labels = {line.partition(" ")[0] for line in live}
    assert len(labels) == 8
    of_each = ("prepare] prepared", "side] beside", "other] other", "main] end")
    expected = (*of_each, *(f"main] line {i}" for i in (1, 2, 3)))
    assert Counter(line.partition("/")[2] for line in live) == dict.fromkeys(expected, 2)


async def test_a_stop_right_after_the_start_lets_nothing_run(driver: KubernetesDriver) -> None:
    runner = driver.runner()
    request = driver.request(Scenario(waits=True))
    for suspend in (False, True):
        request = driver.request(Scenario(waits=True), item=f"item-{suspend}")
        arguments = json.loads(json.dumps(request.arguments))
        arguments["spec"]["suspend"] = suspend
        created = await runner.create(replace(request, arguments=arguments))
        result = await runner.start(created)
        assert isinstance(result, Started)
        await runner.stop(created, 1)
        progress = [each async for each in runner.watch(created)]
        assert isinstance(progress[-1], Ended)
        active = "--field-selector=status.phase!=Failed,status.phase!=Succeeded"
        assert await _objects(driver, "pods", active) == []


async def test_a_quota_that_the_first_try_used_up_refuses_no_start(
    driver: KubernetesDriver,
) -> None:
    """The answer to the first one was lost."""
    quota = ("create", "quota", "jobs", "--hard=count/jobs.batch=1")
    driver.kubectl("-n", driver.namespace, *quota)
    counted = ("wait", "quota/jobs", "--for=jsonpath={.status.hard}", "--timeout=60s")
    driver.kubectl("-n", driver.namespace, *counted)
    runner = driver.runner()
    request = driver.request(Scenario(b"once\n", start_answer_lost=True))
    result = await runner.start(await runner.create(request))
    assert isinstance(result, Started), result
    assert (await ended(runner, result.workload)).exit_code == 0
    assert await driver.starts(request.name) == 1


@pytest.mark.parametrize("cascade", ["background", "orphan"])
async def test_a_job_that_somebody_deleted_is_not_started_again(
    driver: KubernetesDriver, cascade: str
) -> None:
    runner = driver.runner()
    request = driver.request(Scenario(b"once\n"))
    workload = await launched(runner, request)
    await ended(runner, workload)
    deletion = ("delete", "job", workload.name, f"--cascade={cascade}")
    driver.kubectl("-n", driver.namespace, *deletion)
    assert isinstance(await driver.runner().settle(workload), StartUnknown)
    assert await driver.starts(request.name) == 1


async def test_nothing_is_left_of_a_job_that_was_removed(driver: KubernetesDriver) -> None:
    """Ended or running, by who started it or by who adopted it, or never started."""
    runner, adopter = driver.runner(), driver.runner()
    over = await launched(runner, driver.request(Scenario(), "over"))
    await ended(runner, over)
    running = await launched(runner, driver.request(Scenario(waits=True), "running"))
    adopted = await launched(runner, driver.request(Scenario(waits=True), "adopted"))
    created = await runner.create(driver.request(Scenario(), "created"))
    for workload in (over, running, created):
        await runner.destroy(workload)
    await adopter.destroy(adopted)
    assert await runner.owned() == []
    async with asyncio.timeout(60):
        while any([await _objects(driver, kind) for kind in ("jobs", "pods", "secrets")]):
            await asyncio.sleep(0.1)


async def test_a_job_that_ends_at_once_gives_its_log(driver: KubernetesDriver) -> None:
    runner = driver.runner()
    workload = await launched(runner, driver.request(Scenario(b"now\n", exit_code=3)))
    assert await read_all(runner, workload) == b"now\n"


async def test_a_log_after_its_pods_were_removed_is_marked(driver: KubernetesDriver) -> None:
    runner = driver.runner()
    workload = await launched(runner, driver.request(Scenario(b"now\n")))
    await ended(runner, workload)
    driver.kubectl("-n", driver.namespace, "delete", "pods", "--all")
    pieces = await _pieces(driver.runner(), workload)
    assert [(piece.data, bool(piece.missing)) for piece in pieces] == [(b"", True)]


async def _pieces(runner: KubernetesRunner, workload: Any) -> list[LogPiece]:
    async with aclosing(runner.logs(workload, LOG_START)) as pieces:
        return [piece async for piece in pieces]


async def _objects(driver: KubernetesDriver, kind: str, *options: str) -> list[str]:
    listing = driver.kubectl("-n", driver.namespace, "get", kind, "-o", "name", *options)
    return listing.split()
