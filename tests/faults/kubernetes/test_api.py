"""Calls to an API server that is slow, away, or wants to be left alone."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.model.cause import Cause
from agent.runners.kubernetes import api as module
from agent.runners.kubernetes.api import (
    JOBS,
    PODS,
    ClusterApi,
    ClusterCredentialsError,
    ClusterRefusedError,
    ClusterUnreachableError,
)
from tests.faults.kubernetes.scripted_api import NAMESPACE, Answer, Pauses, ScriptedApi, api_of

PATH = JOBS.path(NAMESPACE)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApi]:
    async with ScriptedApi().serving() as serving:
        yield serving


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def api(server: ScriptedApi, pauses: Pauses, tmp_path: Path) -> AsyncIterator[ClusterApi]:
    async with api_of(server, tmp_path, pauses) as opened:
        yield opened


def answer_once(server: ScriptedApi, *answers: Answer) -> None:
    left = list(answers)
    server.intercept = lambda request: left.pop(0) if left and request.path == PATH else None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        (
            {
                "Retry-After": "Wed, 21 Oct 2026 07:28:20 GMT",
                "Date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            20,
        ),
        ({"Retry-After": "soon"}, 0),
        ({}, 0),
    ],
)
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_that_asks_to_wait_is_waited_for(
    server: ScriptedApi, api: ClusterApi, pauses: Pauses, status: int,
    headers: dict[str, str], seconds: float,
) -> None:  # fmt: skip
    answer_once(server, Answer(status, {"message": "busy"}, headers))
    assert await api.get(PATH) is not None
    assert server.counted("GET", "jobs") == 2
    assert seconds <= pauses.taken[-1] <= seconds + 5


async def test_a_server_that_is_away_gets_one_request_at_a_time(
    server: ScriptedApi, api: ClusterApi, pauses: Pauses
) -> None:
    """However many callers there are; all of them get their answer when it is back."""
    server.intercept = lambda _: Answer(503, "no server")
    calls = [asyncio.create_task(api.get(f"{PATH}/{n}")) for n in range(100)]
    async with asyncio.timeout(60):
        while server.probes < 10:  # the far end has no signal
            await asyncio.sleep(0.01)
    asked = len(server.requests)
    assert asked <= 100
    server.intercept = lambda _: None
    async with asyncio.timeout(60):
        assert await asyncio.gather(*calls) == [{}] * 100
    assert max(pauses.taken) <= 5


@pytest.fixture
async def hasty(server: ScriptedApi, pauses: Pauses, tmp_path: Path) -> AsyncIterator[ClusterApi]:
    """A client that gives up soon."""
    async with api_of(server, tmp_path, pauses, patience=4.0) as opened:
        yield opened


async def test_patience_has_an_end(server: ScriptedApi, hasty: ClusterApi) -> None:
    server.intercept = lambda _: Answer(503, "no server")
    with pytest.raises(ClusterUnreachableError) as raised:
        await hasty.get(PATH)
    assert raised.value.cause is Cause.LOST_ENGINE
    assert server.url in raised.value.message


async def test_a_kubelet_that_is_away_stops_nobody_else(
    server: ScriptedApi, api: ClusterApi
) -> None:
    server.intercept = lambda request: (
        Answer(502, {"message": "dial tcp: refused"}) if request.path.endswith("/log") else None
    )
    with pytest.raises(ClusterUnreachableError):
        async with api.stream(PODS.path(NAMESPACE, "pod", "log"), {}, None):
            pass
    await api.get(PATH)
    assert server.probes == 0


async def test_connections_that_renewed_credentials_have_closed_are_lost_connections(
    api: ClusterApi,
) -> None:
    """Also for the question whether the server is back."""
    await api.__aexit__()
    assert not await api._answers()


async def test_many_open_streams_leave_room_for_calls(server: ScriptedApi, api: ClusterApi) -> None:
    """Each running job has one."""

    async def read(number: int) -> None:
        async with api.stream(PODS.path(NAMESPACE, f"pod-{number}", "log"), {}, None) as response:
            await response.read()

    readers = [asyncio.create_task(read(n)) for n in range(150)]
    streams = [await server.watch("log") for _ in readers]
    async with asyncio.timeout(60):
        await api.get(PATH)
    for stream in streams:
        await stream.close()
    await asyncio.gather(*readers)


async def test_a_name_that_is_taken_and_a_refusal_are_told_apart(
    server: ScriptedApi, api: ClusterApi
) -> None:
    taken = {"reason": "AlreadyExists", "message": "jobs.batch exists"}
    other = {"reason": "Conflict", "message": "modified"}
    answer_once(server, Answer(409, taken), Answer(409, other), Answer(403, {"message": "no"}))
    assert await api.create(PATH, {}) is None
    for status in (409, 403):
        with pytest.raises(ClusterRefusedError) as raised:
            await api.create(PATH, {})
        assert raised.value.status == status


async def test_a_token_that_ran_out_is_renewed(
    server: ScriptedApi, pauses: Pauses, tmp_path: Path
) -> None:
    """By the program of the kubeconfig, as clouds have it."""
    tokens = tmp_path / "token"
    tokens.write_text("first")
    code = (
        "import json, pathlib, sys;"
        "status = {'token': pathlib.Path(sys.argv[1]).read_text()};"
        "version = 'client.authentication.k8s.io/v1';"
        "print(json.dumps({'apiVersion': version, 'kind': 'ExecCredential', 'status': status}))"
    )
    program = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", code, str(tokens)],
        "interactiveMode": "Never",
    }
    server.tokens = {"first"}
    async with (
        api_of(server, tmp_path, pauses, {"exec": program}) as api,
        api.stream(PODS.path(NAMESPACE), {"watch": "1"}, None) as watched,
    ):
        stream = await server.watch("pods")
        server.tokens = {"second"}
        tokens.write_text("second")
        await asyncio.gather(*(api.get(PATH) for _ in range(5)))
        assert await api.get(PATH) is not None
        await stream.event("BOOKMARK", {})
        assert b"BOOKMARK" in await watched.content.readline(), "it stays open"
        await stream.close()


async def test_credentials_that_are_not_accepted_are_no_jobs_fault(
    server: ScriptedApi, hasty: ClusterApi
) -> None:
    server.tokens = {"another"}
    # Not repeated: known before the other call's patience begins, however slow the machine is.
    with pytest.raises(ClusterCredentialsError):
        async with hasty.stream(PODS.path(NAMESPACE, "pod", "log"), {}, None):
            pass
    with pytest.raises(ClusterUnreachableError) as raised:
        await hasty.create(PATH, {})
    assert raised.value.cause is Cause.LOST_ENGINE
    assert "credentials" in str(raised.value)
    assert issubclass(ClusterCredentialsError, ClusterUnreachableError)


async def test_an_answer_that_is_no_json_is_asked_for_again(
    server: ScriptedApi, api: ClusterApi
) -> None:
    answer_once(server, Answer(200, "<html>"))
    assert json.dumps(await api.get(PATH))
    assert server.counted("GET", "jobs") == 2


async def test_a_server_that_answers_is_not_asked_whether_it_does(
    server: ScriptedApi, api: ClusterApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "monotonic", lambda: now)
    now = 100.0
    await api.see_that_it_answers()
    assert len(server.requests) == 1
    now += 5
    await api.see_that_it_answers()
    assert len(server.requests) == 1
    await api.get(PATH)
    now += 5
    await api.see_that_it_answers()
    assert len(server.requests) == 2
    now += 60
    await api.see_that_it_answers()
    assert len(server.requests) == 3


async def test_a_server_that_went_away_is_asked_although_it_has_just_answered(
    server: ScriptedApi, tmp_path: Path
) -> None:
    async with api_of(server, tmp_path, Pauses(), patience=0.2) as api:
        await api.get(PATH)
        server.intercept = lambda _: Answer(503, "away")
        with pytest.raises(ClusterUnreachableError):
            await api.get(PODS.path(NAMESPACE))
        with pytest.raises(ClusterUnreachableError):
            await api.see_that_it_answers()


async def test_many_calls_take_turns(
    server: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their time begins with their turn: a server that needs long for all fails none of them."""
    monkeypatch.setattr(module, "_CALLS_AT_ONCE", 2)
    async with api_of(server, tmp_path, Pauses(), patience=60) as api:
        streams = [asyncio.create_task(read(api)) for _ in range(5)]
        logs = [await server.watch("log") for _ in range(5)]
        # None of them has said a word, and calls go on.
        assert await api.get(PATH) is not None
        for log in logs:
            await log.close()
        await asyncio.gather(*streams)
        assert await asyncio.gather(*(api.get(PATH) for _ in range(20)))


async def read(api: ClusterApi) -> bytes:
    async with api.stream(PODS.path(NAMESPACE, "pod", "log"), {}, None) as response:
        return await response.read()
