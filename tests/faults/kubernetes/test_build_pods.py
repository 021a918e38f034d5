"""Pods for builds on an API server that drops what it does not know, and on a full disk."""

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.config.execution import BuilderConfig, KubernetesRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import JobError, UnavailableError
from agent.pipeline.release_rules import Releases, release_reason
from agent.runners.kubernetes import build_pods as module
from agent.runners.kubernetes.api import ClusterApi
from agent.runners.kubernetes.build_pods import BuildPods
from agent.testing.builder_suite import RecordingLog
from tests.faults.kubernetes.scripted_api import NAMESPACE, Answer, Pauses, ScriptedApi, api_of

JSON = {"Content-Type": "application/json"}


class Cluster:
    """Jobs whose pods are ready at once; of their fields it does not know `hostUsers`."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self._pod: dict[str, Any] = {}
        #: What ended the pod, over its status.
        self.end: dict[str, Any] = {}

    async def answer(self, request: web.Request) -> Answer | None:
        plural = request.path.split("/")[-1 if request.method in {"GET", "POST"} else -2]
        if request.method == "GET":
            if plural != "pods":
                return None
            now = {**self._pod, "status": {**self._pod["status"], **self.end}}
            return Answer(200, {"items": [now]}, JSON)
        self.changes.append((request.method, plural))
        if request.method != "POST":
            return Answer(200, {}, JSON)
        made = await request.json()
        made["metadata"]["uid"] = "uid"
        if plural == "jobs":
            template = made["spec"]["template"]
            template["spec"].pop("hostUsers", None)
            daemon = {"name": "buildkitd", "started": True, "state": {"running": {}}}
            ready = {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [daemon]}
            names = {"uid": "pod", "name": "pod"}
            self._pod = {"metadata": names, "spec": template["spec"], "status": ready}
        return Answer(201, made, JSON)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def api(cluster: Cluster, tmp_path: Path) -> AsyncIterator[ClusterApi]:
    server = ScriptedApi()
    server.intercept = cluster.answer
    async with server.serving(), api_of(server, tmp_path, Pauses()) as opened:
        yield opened


def pods_of(api: ClusterApi, mode: str) -> BuildPods:
    runner = KubernetesRunnerConfig(enabled=True, in_cluster=True, namespace=NAMESPACE)
    settings = {"type": "kubernetes", "destination": "r.example/x", "pod": {"mode": mode}}
    return BuildPods(api, runner, BuilderConfig.model_validate(settings))


async def test_a_pod_that_would_be_privileged_on_its_node_gets_nothing_to_start_with(
    cluster: Cluster, api: ClusterApi
) -> None:
    with pytest.raises(JobError, match="does not know `hostUsers`"):
        await pods_of(api, "user-namespace").preflight()
    assert ("POST", "secrets") not in cluster.changes
    assert cluster.changes[-1] == ("DELETE", "jobs")


async def test_a_job_is_removed_when_its_certificates_cannot_be_written(
    cluster: Cluster, api: ClusterApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(OSError, match="No space"):
        async with pods_of(api, "rootless").open(tmp_path / "certificates", RecordingLog()):
            pass
    assert cluster.changes[-1] == ("DELETE", "jobs")


class WellBackend:
    """`BackendState` of a cluster that answers."""

    def failed(self, resource: str, error: UnavailableError) -> None: ...

    def worked(self, resource: str) -> None: ...

    async def check(self, resource: str) -> UnavailableError | None:
        return None


def evicted(message: str) -> dict[str, Any]:
    return {"phase": "Failed", "reason": "Evicted", "message": message}


EXIT = {"name": "buildkitd", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}


@pytest.mark.parametrize(
    ("end", "cause", "counted"),
    [
        (
            evicted(
                "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi."
            ),
            Cause.DISK_FULL,
            True,
        ),
        (
            evicted('Usage of EmptyDir volume "layers" exceeds the limit "9Gi".'),
            Cause.DISK_FULL,
            True,
        ),
        (evicted("The node was low on resource: ephemeral-storage."), Cause.DISK_FULL, True),
        (evicted("The node was low on resource: memory."), Cause.BUILD_FAILED, True),
        ({"phase": "Failed", "containerStatuses": [EXIT]}, Cause.BUILD_FAILED, True),
        ({"phase": "Failed", "reason": "Terminated"}, Cause.BUILD_UNAVAILABLE, False),
    ],
)
async def test_a_build_that_ends_its_pod_is_released_three_times_at_most(
    cluster: Cluster,
    api: ClusterApi,
    tmp_path: Path,
    end: dict[str, Any],
    cause: Cause,
    counted: bool,
) -> None:
    async def build() -> None:
        async with pods_of(api, "rootless").open(tmp_path, RecordingLog()):
            cluster.end = end
            raise JobError(Cause.BUILD_UNAVAILABLE, "The buildkitd does not answer.")

    with pytest.raises(UnavailableError) as caught:
        await build()
    assert caught.value.cause is cause
    releases, reasons = Releases(), []
    for _ in range(4):
        reason = await release_reason(caught.value, "kubernetes", WellBackend(), releases)
        reasons.append(reason)
        releases = releases if reason is None else releases.and_one_for(reason)
    assert [reason is None for reason in reasons] == [False, False, counted, counted]
