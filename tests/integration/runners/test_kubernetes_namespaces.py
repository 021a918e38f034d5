"""Jobs in several namespaces, under restricted pod security, and with the agent's login."""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config.execution import KubernetesRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.model.work import Image
from agent.ports.registry import Credentials
from agent.ports.runner import Pending, RunRequest
from agent.runners.kubernetes.namespaces import NamespacesRunner
from agent.runners.kubernetes.runner import KubernetesRunner
from agent.testing.runner_suite import Scenario, ended, launched, read_all
from tests.contract.runner_drivers import JobFolders
from tests.infrastructure import engine
from tests.infrastructure.kubernetes_account import kubectl, make_account
from tests.infrastructure.state import DockerFacts, KubernetesFacts, RegistryFacts

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]


@pytest.fixture
def folders(tmp_path: Path) -> JobFolders:
    return JobFolders(tmp_path / "folders")


@pytest.fixture
def namespaces(kubernetes_cluster: KubernetesFacts, folders: JobFolders) -> Iterator[list[str]]:
    """Two of them; the second one restricts what pods may do."""
    names = [f"{kind}-{folders.control_plane_id}" for kind in ("own", "other")]
    for name in names:
        make_account(kubernetes_cluster, name)
    restricted = "pod-security.kubernetes.io/enforce=restricted"
    kubectl(kubernetes_cluster, "label", "namespace", names[1], restricted)
    yield names
    kubectl(kubernetes_cluster, "delete", "namespace", *names, "--wait=false")


def configured(cluster: KubernetesFacts, names: list[str], **more: Any) -> Any:
    given = {"enabled": True, "kubeconfig": Path(cluster.kubeconfig), "namespace": names[0]}
    return KubernetesRunnerConfig(**{**given, **more})


@pytest.fixture
async def runner(
    kubernetes_cluster: KubernetesFacts, folders: JobFolders, namespaces: list[str]
) -> AsyncIterator[NamespacesRunner]:
    config = configured(
        kubernetes_cluster, namespaces, namespaces=(namespaces[1],), run_as_non_root=True
    )
    async with NamespacesRunner(folders.control_plane_id, config) as runner:
        yield runner


def request_in(
    folders: JobFolders, image: str, namespace: str, item: str = "item", **pod: Any
) -> RunRequest:
    """A job that says who it is; the queue's template names its namespace."""
    lease, name, _ = folders.lay_out(Scenario(), item, 1)
    arguments = {"metadata": {"namespace": namespace}, "spec": {"template": {"spec": pod}}}
    made = folders.request(
        lease, name, Image(image, "digest", reused=True), ("sh", "-c", "id -u"), arguments=arguments
    )
    return replace(made, template=arguments)


def left(cluster: KubernetesFacts, namespace: str) -> list[str]:
    selector = "--selector=launch-agent.item"
    found = kubectl(cluster, "-n", namespace, "get", "jobs,secrets", "-o=name", selector)
    return found.split()


async def test_a_template_chooses_the_namespace_and_every_runner_finds_the_job(
    runner: NamespacesRunner,
    folders: JobFolders,
    namespaces: list[str],
    kubernetes_cluster: KubernetesFacts,
    cluster_image: str,
) -> None:
    """In the one with restricted pod security, as the image's user with a number."""
    other = namespaces[1]
    as_user = {"securityContext": {"runAsUser": 65534}}
    allowed = configured(
        kubernetes_cluster,
        namespaces,
        namespaces=(other,),
        run_as_non_root=True,
        allow=("securityContext",),
    )
    async with NamespacesRunner(folders.control_plane_id, allowed) as first:
        request = request_in(folders, cluster_image, other, **as_user)
        workload = await launched(first, request)
        assert (await ended(first, workload)).exit_code == 0
        assert left(kubernetes_cluster, namespaces[0]) == []
        assert len(left(kubernetes_cluster, other)) == 2
    # Another process, which has not created it.
    assert [each.name for each in await runner.owned()] == [workload.name]
    assert await read_all(runner, workload) == b"65534\n"
    await runner.destroy(workload)
    async with asyncio.timeout(60):
        while left(kubernetes_cluster, other):
            await asyncio.sleep(0.2)


async def test_a_job_that_would_be_root_does_not_start_where_that_is_forbidden(
    runner: NamespacesRunner, folders: JobFolders, namespaces: list[str], cluster_image: str
) -> None:
    workload = await launched(runner, request_in(folders, cluster_image, namespaces[1]))
    async for progress in runner.watch(workload):
        if isinstance(progress, Pending) and progress.cause is Cause.START_REFUSED:
            assert "runAsNonRoot" in progress.message
            break
    await runner.destroy(workload)


async def test_a_submitter_does_not_choose_the_namespace(
    runner: NamespacesRunner, folders: JobFolders, namespaces: list[str], cluster_image: str
) -> None:
    request = request_in(folders, cluster_image, namespaces[1])
    with pytest.raises(PolicyError, match="may be set by the queue's template only"):
        await runner.create(replace(request, template={}))
    for asked in (namespaces[0], ""):
        own = {"metadata": {"namespace": asked}}
        with pytest.raises(PolicyError, match="may be set by the queue's template only"):
            await runner.create(replace(request, arguments=own))
    with pytest.raises(PolicyError, match="runs jobs in"):
        await runner.create(request_in(folders, cluster_image, "kube-system"))
    assert await runner.find(request.name) is None


async def test_nodes_pull_built_images_with_the_agents_login(
    folders: JobFolders,
    namespaces: list[str],
    kubernetes_cluster: KubernetesFacts,
    docker_engine: DockerFacts,
    registries: RegistryFacts,
    tmp_path: Path,
) -> None:
    """The login is in the job's Secret, under a key that no container gets."""
    # A tag of its own: nodes do not ask for what they have.
    image = f"{registries.private_address}/tests/{folders.control_plane_id}:1"
    push(docker_engine, registries, image, tmp_path / "docker")
    login = Credentials(registries.private_address, registries.username, registries.password)

    async def ask(reference: str) -> Credentials | None:
        return login if reference == image else None

    config = configured(kubernetes_cluster, namespaces)
    request = request_in(folders, image, namespaces[0])
    async with KubernetesRunner(folders.control_plane_id, config, login=ask) as runner:
        workload = await launched(runner, request)
        assert (await ended(runner, workload)).exit_code == 0
        get = ("get", "secret", workload.name, "-o=json")
        secret = json.loads(kubectl(kubernetes_cluster, "-n", namespaces[0], *get))
        assert secret["type"] == "kubernetes.io/dockerconfigjson"
        job = json.loads(
            kubectl(kubernetes_cluster, "-n", namespaces[0], "get", "job", workload.name, "-o=json")
        )
        assert ".dockerconfigjson" not in json.dumps(job["spec"])
        await runner.destroy(workload)


def push(docker: DockerFacts, registries: RegistryFacts, image: str, config: Path) -> None:
    config.mkdir()
    pair = f"{registries.username}:{registries.password}".encode()
    auth = {"auth": base64.b64encode(pair).decode()}
    document = {"auths": {registries.private_address: auth}}
    (config / "config.json").write_text(json.dumps(document))
    try:
        engine.docker(docker.host, "tag", docker.shell_image, image)
        engine.docker(docker.host, "--config", config, "push", "--quiet", image)
    finally:
        shutil.rmtree(config)
        engine.docker(docker.host, "rmi", image)
