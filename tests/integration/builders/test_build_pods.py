"""BuildKit in a pod of the test cluster for each build, reached through its API server."""

import asyncio
import json
import os
import uuid
from contextlib import AsyncExitStack

import pytest

from agent.builders.docker import DockerBuilder
from agent.config.execution import BuilderConfig, KubernetesRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import JobError, UnavailableError
from agent.runners.kubernetes.api import ClusterApi
from agent.runners.kubernetes.build_pods import BuildPods
from agent.testing.builder_suite import RecordingLog
from tests.infrastructure.kubernetes_account import kubectl, make_account, write_kubeconfig

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]

#: The registry of the tests is on the loopback of the only node.
ON_THE_NODE = {"hostNetwork": True}
#: What the account needs besides deploy/kubernetes.yaml, as docs/kubernetes.md has it.
FORWARD = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "builds"},
    "rules": [{"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create", "get"]}],
}


class Namespace:
    """A namespace with the agent's account in it."""

    def __init__(self, cluster, name, folder):
        self.name = name
        self._cluster = cluster
        make_account(cluster, name)
        self.kubeconfig = write_kubeconfig(cluster, name, folder / "kubeconfig")

    def kubectl(self, *words, stdin=""):
        return kubectl(self._cluster, "-n", self.name, *words, stdin=stdin)

    def allow_port_forward(self):
        self.kubectl("apply", "-f=-", stdin=json.dumps(FORWARD))
        account = f"--serviceaccount={self.name}:launch-agent"
        self.kubectl("create", "rolebinding", "builds", "--role=builds", account)

    def left(self):
        return self.kubectl("get", "jobs,secrets", "-o=name").split()


@pytest.fixture
def namespace(kubernetes_cluster, tmp_path):
    made = Namespace(kubernetes_cluster, f"build-{uuid.uuid4().hex[:12]}", tmp_path)
    made.allow_port_forward()
    yield made
    made.kubectl("delete", "namespace", made.name, "--wait=false")


@pytest.fixture
async def pods(namespace, registries, buildkit_image):
    """Makes `BuildPods` and their configuration; `spec` is merged into the pod's."""
    async with AsyncExitStack() as stack:

        async def make(*, mode="privileged", spec=ON_THE_NODE, in_cluster=False):
            images = {"image": buildkit_image, "rootless_image": buildkit_image}
            config = BuilderConfig(
                type="kubernetes",
                destination=f"{registries.address}/launch-test/{namespace.name}",
                pod={"mode": mode, "spec": spec, "start_timeout": 300, **images},
            )
            runner = KubernetesRunnerConfig(kubeconfig=namespace.kubeconfig)
            api = await stack.enter_async_context(ClusterApi(runner))
            # Pods of this cluster can be reached from here as from within.
            placed = runner.model_copy(update={"in_cluster": in_cluster})
            return BuildPods(api, placed, config), config

        yield make


@pytest.fixture
def in_pods(pods, registry, threads, tmp_path):
    """Makes a builder."""

    async def make(**given):
        daemons, config = await pods(**given)
        environment = dict(os.environ)
        return DockerBuilder(
            config, None, tmp_path / "cache", threads=threads, environment=environment,
            registry=registry(environment), runs_on_engine=False, daemons=daemons,
        )  # fmt: skip

    return make


@pytest.fixture
def job(tmp_path, cluster_image):
    def make(step):
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        (folder / "code").write_text(uuid.uuid4().hex)
        (folder / "Dockerfile").write_text(
            f"FROM {cluster_image}\nRUN {step}\nCOPY code /code\nCMD cat /code\n"
        )
        return folder

    return make


async def test_the_preflight_finds_out_what_the_cluster_permits(pods, namespace):
    found, _ = await pods(mode="auto", spec={})
    choice = await found.preflight()
    assert choice.mode == "privileged"
    assert "runtime does not support user namespaces" in choice.refused["user-namespace"]
    assert "buildkitd ended with exit code" in choice.refused["rootless"]
    assert str(choice).startswith("privileged, as the cluster does not permit user-namespace: ")
    assert namespace.left() == []


async def test_a_build_leaves_nothing_but_its_image_and_cache(
    in_pods, namespace, job, request_for, build
):
    builder = await in_pods()
    step = "echo the-step-runs"
    folder = job(step)
    image, log = await build(builder, request_for(folder, dockerfile=folder / "Dockerfile"))
    assert image.built_by == "BuildKit in a privileged pod"
    assert "@sha256:" in image.reference
    assert "builds in a pod of its own (privileged)" in log.text
    assert "the-step-runs\n" in log.text.replace(step, "")
    assert namespace.left() == []
    # Another pod has nothing but what the first has left in the registry.
    again = job(step)
    image, log = await build(builder, request_for(again, dockerfile=again / "Dockerfile"))
    assert "the-step-runs\n" not in log.text.replace(step, "")
    found = await builder.find(
        await builder.key(request_for(again, dockerfile=again / "Dockerfile"))
    )
    assert found is not None
    assert found.reference == image.reference


async def test_an_agent_in_the_cluster_connects_to_the_pod_itself(
    in_pods, namespace, job, request_for, build
):
    namespace.kubectl("delete", "rolebinding", "builds")
    builder = await in_pods(in_cluster=True)
    folder = job("true")
    image, _ = await build(builder, request_for(folder, dockerfile=folder / "Dockerfile"))
    assert "@sha256:" in image.reference


async def test_a_step_that_takes_all_memory_is_named(in_pods, namespace, job, request_for, build):
    limits = {"name": "buildkitd", "resources": {"limits": {"memory": "160Mi"}}}
    builder = await in_pods(spec={**ON_THE_NODE, "containers": [limits]})
    folder = job("head -c 600000000 /dev/zero | tail")
    request = request_for(folder, dockerfile=folder / "Dockerfile")
    with pytest.raises(JobError) as caught:
        await build(builder, request)
    assert caught.value.cause is Cause.BUILD_OUT_OF_MEMORY
    assert namespace.left() == []


async def test_a_pod_that_is_deleted_is_not_the_jobs_fault(in_pods, namespace, job, request_for):
    builder = await in_pods()
    folder = job("echo slow-step; sleep 3600")
    request = request_for(folder, dockerfile=folder / "Dockerfile")
    log = RecordingLog()
    key = await builder.key(request)
    building = asyncio.create_task(builder.build(request, key, log))
    # As output of the step; the command itself was shown before.
    await log.shows("slow-step\n")
    await asyncio.to_thread(namespace.kubectl, "delete", "jobs", "--all", "--wait=false")
    with pytest.raises(UnavailableError) as caught:
        await building
    assert caught.value.cause is Cause.BUILD_UNAVAILABLE


async def test_a_cancelled_build_leaves_no_pod(in_pods, namespace, job, request_for):
    builder = await in_pods()
    folder = job("echo slow-step; sleep 3600")
    request = request_for(folder, dockerfile=folder / "Dockerfile")
    log = RecordingLog()
    building = asyncio.create_task(builder.build(request, await builder.key(request), log))
    await log.shows("slow-step\n")
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert namespace.left() == []


async def test_a_namespace_that_permits_no_such_pod_is_named_with_its_reasons(
    in_pods, namespace, job, request_for, build
):
    level = "pod-security.kubernetes.io/enforce=restricted"
    namespace.kubectl("label", "namespace", namespace.name, level)
    builder = await in_pods(mode="auto", spec={})
    folder = job("true")
    with pytest.raises(UnavailableError) as caught:
        await build(builder, request_for(folder, dockerfile=folder / "Dockerfile"))
    assert caught.value.cause is Cause.BUILD_UNAVAILABLE
    for mode in ("user-namespace", "rootless", "privileged"):
        assert f"{mode}: violates PodSecurity" in caught.value.message
    assert "builder.buildkit" in caught.value.hint
    assert namespace.left() == []


async def test_a_missing_right_is_named(in_pods, namespace, job, request_for, build):
    namespace.kubectl("delete", "rolebinding", "builds")
    builder = await in_pods()
    folder = job("true")
    with pytest.raises(UnavailableError, match="may not `create pods --subresource=portforward`"):
        await build(builder, request_for(folder, dockerfile=folder / "Dockerfile"))
    assert namespace.left() == []
