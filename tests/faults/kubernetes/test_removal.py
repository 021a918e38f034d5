"""Jobs that end at once are deleted together, and no other attempt's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from agent.model.errors import JobError
from agent.model.work import Lease, workload_labels, workload_name
from agent.runners.kubernetes.api import ClusterApi
from agent.runners.kubernetes.removal import Removals
from agent.system.tasks import cancel_task
from tests.faults.kubernetes.scripted_api import (
    CONTROL_PLANE,
    NAMESPACE,
    Answer,
    Json,
    Pauses,
    ScriptedApi,
    api_of,
)

JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApi]:
    async with ScriptedApi().serving() as serving:
        yield serving


@pytest.fixture
async def api(server: ScriptedApi, tmp_path: Path) -> AsyncIterator[ClusterApi]:
    async with api_of(server, tmp_path, Pauses()) as api:
        yield api


@pytest.fixture
async def removals(api: ClusterApi) -> AsyncIterator[Removals]:
    removals = Removals(api, CONTROL_PLANE)
    yield removals
    await removals.close()


def job(item: str, attempt: int = 1, epoch: int = 1) -> Json:
    labels = workload_labels(CONTROL_PLANE, Lease(item, attempt, epoch))
    name = workload_name(CONTROL_PLANE, item, attempt)
    return {"metadata": {"name": name, "uid": f"uid-{item}", "labels": labels}}


def selectors(server: ScriptedApi) -> list[str]:
    """Of all deletions: the selector of a collection, else the name of one Job."""
    return [
        query.get("labelSelector") or path.removeprefix(f"{JOBS}/")
        for method, path, query in server.requests
        if method == "DELETE"
    ]


async def test_those_that_wait_for_a_deletion_are_deleted_in_one_request(
    server: ScriptedApi, removals: Removals
) -> None:
    first = asyncio.create_task(removals.delete(job("first")))
    while not server.requests:
        await asyncio.sleep(0)
    await asyncio.gather(
        first,
        *(removals.delete(job(f"item{number}")) for number in range(3)),
        removals.delete(job("retried", attempt=2)),
        removals.delete(job("adopted", epoch=2)),
    )
    plane = f"launch-agent.control-plane={CONTROL_PLANE}"
    numbers = "launch-agent.attempt=1,launch-agent.epoch=1"
    names = [job(item)["metadata"]["name"] for item in ("first", "adopted")]
    assert selectors(server) == [
        names[0],
        f"{plane},launch-agent.item in (item0,item1,item2),{numbers}",
        job("retried", attempt=2)["metadata"]["name"],
        names[1],
    ]


async def test_a_refused_deletion_fails_for_all_of_its_callers_and_for_no_other(
    server: ScriptedApi, removals: Removals
) -> None:
    def refuse(request: web.Request) -> Answer | None:
        forbidden = request.method == "DELETE" and request.path == JOBS
        return Answer(403, {"kind": "Status", "message": "no"}) if forbidden else None

    server.intercept = refuse
    found = await asyncio.gather(
        removals.delete(job("one")),
        removals.delete(job("two")),
        removals.delete(job("alone", attempt=2)),
        return_exceptions=True,
    )
    assert [isinstance(each, JobError) for each in found] == [True, True, False]
    server.intercept = lambda _: None
    await removals.delete(job("one"))
    assert selectors(server)[-1] == job("one")["metadata"]["name"]


async def test_a_caller_that_is_cancelled_does_not_keep_the_others(
    server: ScriptedApi, removals: Removals
) -> None:
    leaving = asyncio.create_task(removals.delete(job("leaving")))
    staying = asyncio.create_task(removals.delete(job("staying")))
    await asyncio.sleep(0)
    await cancel_task(leaving)
    await staying
    assert len(selectors(server)) == 1


async def test_many_are_deleted_in_requests_of_a_bounded_length(
    server: ScriptedApi, removals: Removals
) -> None:
    await asyncio.gather(*(removals.delete(job(f"item{number}")) for number in range(120)))
    counts = [selector.count("item") - 1 for selector in selectors(server)]
    assert [counts[0], counts[1], sum(counts)] == [50, 50, 120]
