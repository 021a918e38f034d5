"""What is known of jobs follows the cluster, and is dropped with them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.model.work import Lease, workload_labels, workload_name
from agent.runners.kubernetes.job_states import JobState, JobStates
from tests.faults.kubernetes.scripted_api import CONTROL_PLANE, Answer, Pauses, ScriptedApi, api_of

NAME = workload_name(CONTROL_PLANE, "item", 1)
LABELS = workload_labels(CONTROL_PLANE, Lease("item", 1, 1))


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApi]:
    async with ScriptedApi().serving() as serving:
        yield serving


@pytest.fixture
async def states(server: ScriptedApi, tmp_path: Path) -> AsyncIterator[JobStates]:
    async with api_of(server, tmp_path, Pauses()) as api:
        states = JobStates(api, CONTROL_PLANE)
        states.open()
        yield states
        await states.close()


async def known(states: JobStates, *, wanted: bool) -> None:
    """Wait until a job is known, or dropped."""
    async with asyncio.timeout(60):
        while (NAME in states._states) is not wanted:
            await asyncio.sleep(0.01)


async def test_what_is_gone_is_dropped_when_nobody_follows_it(
    server: ScriptedApi, states: JobStates
) -> None:
    """Events that come later, in any order, bring nothing back."""
    jobs, pods = await server.watch("jobs"), await server.watch("pods")
    await jobs.event("ADDED", server.put("jobs", NAME, labels=LABELS))
    await pods.event("ADDED", server.put("pods", "pod", labels=LABELS))
    await known(states, wanted=True)
    async with states.following(NAME) as state:
        assert state is not None
        await jobs.event("DELETED", server.remove("jobs", NAME))
        await pods.event("MODIFIED", server.put("pods", "pod", labels=LABELS))
        await pods.event("DELETED", server.remove("pods", "pod"))
        async with asyncio.timeout(60):
            while not state.is_gone:
                await state.newer_than(state.version)
        assert NAME in states._states
        assert [pod["metadata"]["name"] for pod in state.observed.pods] == ["pod"]
    await known(states, wanted=False)


async def test_a_job_that_the_watch_does_not_show_is_asked_for(
    server: ScriptedApi, states: JobStates
) -> None:
    server.intercept = lambda request: (
        Answer(404, {"reason": "NotFound"}) if "launch-unknown-1" in request.path else None
    )
    async with states.following("launch-unknown-1") as state:
        assert state is None
    assert states._states.keys() == set()


async def test_every_waiter_sees_every_change() -> None:
    """Also while another one is busy with it."""
    state = JobState()
    seen: list[list[int]] = [[], []]

    async def follow(into: list[int], pauses: int) -> None:
        while True:
            version = state.version
            into.append(version)
            if version == 5:
                return
            for _ in range(pauses):
                await asyncio.sleep(0)
            await state.newer_than(version)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for into, pauses in zip(seen, (0, 7), strict=True):
            tasks.create_task(follow(into, pauses))
        for number in range(5):
            await asyncio.sleep(0)
            job = {"metadata": {"resourceVersion": str(number)}}
            state.update_job(job, deleted=False)
    assert [each[-1] for each in seen] == [5, 5]


def event(text: str, second: int, **more: str) -> dict[str, Any]:
    involved = {"kind": "Pod", "name": "pod", "uid": "uid-pods-pod"}
    at = f"2026-01-01T00:00:{second:02}Z"
    told = {"type": "Normal", "reason": "Pulling", "message": text, "lastTimestamp": at}
    return {"involvedObject": involved, **told, **more}


async def test_the_newest_event_of_a_pod_is_kept_and_warnings_beside_it() -> None:
    state = JobState()
    state.update_job({"metadata": {"resourceVersion": "1"}}, deleted=False)
    for told in (
        event("pulling", 2),
        event("scheduled", 1, reason="Scheduled"),
        event("no such secret", 3, type="Warning", reason="FailedMount"),
        event("back off", 4, type="Warning", reason="BackOff"),
    ):
        state.note_event(told)
    assert state.observed.news["uid-pods-pod"].message == "pulling"
    warnings = state.observed.warnings["uid-pods-pod"]
    assert {reason: one.message for reason, one in warnings.items()} == {
        "FailedMount": "no such secret"
    }
