"""What an agent does at its start with an API server that is away, or refuses it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from agent.model.errors import ConfigError, JobError
from agent.runners.kubernetes import access
from agent.runners.kubernetes.access import Rights, check_cluster
from agent.runners.kubernetes.api import Kind
from tests.faults.kubernetes.scripted_api import Answer, Pauses, ScriptedApi, api_of, kubeconfig

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedApi]:
    monkeypatch.setattr(access, "_PATIENCE", 1.0)
    async with ScriptedApi().serving() as serving:
        yield serving


def allow(request: web.Request) -> Answer | None:
    """Every right."""
    asks = request.path.endswith("/selfsubjectaccessreviews")
    return Answer(201, {"status": {"allowed": True}}, JSON) if asks else None


async def test_a_server_that_is_away_is_waited_for(server: ScriptedApi, tmp_path: Path) -> None:
    calls: list[int] = []

    def on_wait() -> None:
        calls.append(server.probes)
        if len(calls) == 2:
            server.intercept = allow

    server.intercept = lambda _: Answer(503, "away")
    await check_cluster(kubeconfig(tmp_path / "kubeconfig", server.url), on_wait)
    assert len(calls) >= 2


async def test_without_a_wait_it_is_an_error_that_names_the_server(
    server: ScriptedApi, tmp_path: Path
) -> None:
    server.intercept = lambda _: Answer(503, "away")
    with pytest.raises(ConfigError, match=f"{server.url} does not answer"):
        await check_cluster(kubeconfig(tmp_path / "kubeconfig", server.url))


async def test_refused_credentials_are_not_waited_for(server: ScriptedApi, tmp_path: Path) -> None:
    server.tokens = set()
    config = kubeconfig(tmp_path / "kubeconfig", server.url)
    with pytest.raises(ConfigError, match="does not accept the credentials"):
        await check_cluster(config, lambda: pytest.fail("it waits"))


async def test_rights_on_a_kind_are_asked_once_and_named_where_they_are_missing(
    server: ScriptedApi, tmp_path: Path
) -> None:
    kind = Kind("/apis/kubeflow.org/v1", "pytorchjobs")
    granted = {"create"}

    async def review(request: web.Request) -> Answer | None:
        if not request.path.endswith("/selfsubjectaccessreviews"):
            return None
        spec = (await request.json())["spec"]["resourceAttributes"]
        assert (spec["group"], spec["resource"]) == ("kubeflow.org", "pytorchjobs")
        return Answer(201, {"status": {"allowed": spec["verb"] in granted}}, JSON)

    server.intercept = review
    async with api_of(server, tmp_path, Pauses()) as api:
        rights = Rights(api)
        with pytest.raises(JobError) as refused:
            await rights.require(kind, ("create", "watch"), "The job is a PyTorchJob")
        assert refused.value.message == (
            "The job is a PyTorchJob, and the agent's account lacks rights in 'tests': "
            "`watch pytorchjobs.kubeflow.org`."
        )
        granted.add("watch")
        await rights.require(kind, ("create", "watch"), "The job is a PyTorchJob")
        assert len(server.requests) == 3
        await rights.require(kind, ("create", "watch"), "The job is a PyTorchJob")
        assert len(server.requests) == 3
