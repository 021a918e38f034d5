"""Why jobs of a real cluster wait and how they end: each state is made for real.

What no cluster of one node has is played by the test, and said there: Kueue, and a node that is
gone.
"""

import asyncio
import json
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.config.execution import KubernetesRunnerConfig
from agent.model.cause import Cause
from agent.model.work import Image
from agent.ports.runner import Ended, Ending, NeverStarted, Pending, Progress, Running, Workload
from agent.runners.kubernetes.runner import KubernetesRunner
from agent.testing.runner_suite import bare, ended, first_piece, launched
from tests.contract.runner_drivers import JobFolders
from tests.infrastructure.engine import docker
from tests.infrastructure.kubernetes_account import kubectl
from tests.infrastructure.state import DockerFacts, KubernetesFacts, RegistryFacts

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]

Json = dict[str, Any]
#: A shell ends at once on SIGTERM, with 143.
WAITS = "trap 'exit 143' TERM; echo up; while :; do sleep 0.1; done"
FETCH = {"name": "fetch", "image": "SHELL"}
#: Seconds for a state to come about, on a busy machine.
PATIENCE = 120.0


class Namespace:
    """A namespace of one test, a runner for it, and what the test does there."""

    def __init__(self, cluster: KubernetesFacts, image: str, root: Path) -> None:
        self._cluster = cluster
        self._image = image
        self._folders = JobFolders(root)
        self.name = f"states-{self._folders.control_plane_id}"
        config = KubernetesRunnerConfig(
            enabled=True,
            kubeconfig=Path(cluster.kubeconfig),
            namespace=self.name,
            allow=("serviceAccountName", "securityContext"),
        )
        self.runner = KubernetesRunner(self._folders.control_plane_id, config)

    def kubectl(self, *arguments: str) -> str:
        return kubectl(self._cluster, "-n", self.name, *arguments)

    def apply(self, body: Json) -> None:
        kubectl(self._cluster, "-n", self.name, "apply", "-f", "-", stdin=json.dumps(body))

    def set_status(self, target: str, status: Json) -> None:
        change = json.dumps({"status": status})
        self.kubectl("patch", target, "--subresource=status", "--type=merge", f"-p={change}")

    def pod_of(self, workload: Workload) -> str:
        (pod,) = self.kubectl("get", "pods", f"-l=job-name={workload.name}", "-o=name").split()
        return pod

    async def start(self, item: str, given: Json, script: str = "true") -> Workload:
        """Start a job; `given` may have parts of the spec, the pod and the container."""
        container = {"command": ["sh", "-c", script], **given.get("container", {})}
        pod = {"terminationGracePeriodSeconds": 1, **given.get("pod", {})}
        arguments = {
            "metadata": given.get("metadata", {}),
            "spec": {
                **given.get("spec", {}),
                "template": {"spec": {**pod, "containers": [container]}},
            },
        }
        return await launched(self.runner, self.request(item, arguments))

    def request(self, item: str, arguments: Json) -> Any:
        lease, name, _ = self._folders.lay_out(SILENT, item, 1)
        image = Image(self._image, "digest", reused=True)
        return replace(
            self._folders.request(lease, name, image, (), arguments=arguments), template=arguments
        )


class _Silent:
    output = b""


SILENT: Any = _Silent()


@pytest.fixture
async def place(
    kubernetes_cluster: KubernetesFacts, cluster_image: str, tmp_path: Path
) -> AsyncIterator[Namespace]:
    made = Namespace(kubernetes_cluster, cluster_image, tmp_path)
    kubectl(kubernetes_cluster, "create", "namespace", made.name)
    async with made.runner:
        yield made
    kubectl(kubernetes_cluster, "delete", "namespace", made.name, "--wait=false")


@pytest.fixture(scope="module")
def foreign_image(docker_engine: DockerFacts, registries: RegistryFacts) -> str:
    name = f"{registries.address}/tests/foreign:1"
    docker(docker_engine.host, "tag", docker_engine.foreign_image, name)
    docker(docker_engine.host, "push", "--quiet", name)
    return name


@pytest.fixture(scope="module")
def foreign_index(foreign_image: str) -> str:
    """A tag with images for other architectures only."""
    repository, _, tag = foreign_image.rpartition(":")
    host, _, path = repository.partition("/")
    url = f"http://{host}/v2/{path}/manifests/"
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    asked = urllib.request.Request(url + tag, headers={"Accept": kind})
    with urllib.request.urlopen(asked) as answer:
        digest, size = answer.headers["Docker-Content-Digest"], len(answer.read())
    platform = {"os": "linux", "architecture": "s390x"}
    entry = {"mediaType": kind, "digest": digest, "size": size, "platform": platform}
    index = "application/vnd.docker.distribution.manifest.list.v2+json"
    body = json.dumps({"schemaVersion": 2, "mediaType": index, "manifests": [entry]}).encode()
    put = urllib.request.Request(
        url + "index", data=body, headers={"Content-Type": index}, method="PUT"
    )
    urllib.request.urlopen(put).close()
    return f"{repository}:index"


@pytest.fixture
async def slow_registry() -> AsyncIterator[str]:
    """A registry that takes its time: it never answers."""

    async def never(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError(request.path)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", never)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def until(
    watching: AsyncGenerator[Progress, None], wanted: Callable[[Progress], bool]
) -> Progress:
    """The first progress that is wanted, or the last one within all patience."""
    last: Progress | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            async for last in watching:
                if wanted(last):
                    break
    except TimeoutError:
        pass
    assert last is not None
    return last


async def pending(place: Namespace, workload: Workload, cause: Cause) -> Progress:
    async with aclosing(place.runner.watch(workload)) as watching:
        return await until(watching, lambda one: not isinstance(one, Pending) or one.cause is cause)


def volume(source: Json) -> Json:
    mount = {"name": "data", "mountPath": "/data"}
    return {
        "pod": {"volumes": [{"name": "data", **source}]},
        "container": {"volumeMounts": [mount]},
    }


def claim(name: str) -> Json:
    return volume({"persistentVolumeClaim": {"claimName": name}})


def variable(source: Json) -> Json:
    return {"container": {"env": [{"name": "A", "valueFrom": source}]}}


#: What is asked for → cause, whether it is permanent, and a part of the cluster's sentence.
WAITING: dict[str, tuple[Json, Cause, bool, str]] = {
    "room": (
        {"container": {"resources": {"requests": {"cpu": "500"}}}},
        Cause.SCHEDULE_NO_NODE,
        False,
        "0/1 nodes are available: 1 Insufficient cpu",
    ),
    "selector": (
        {"pod": {"nodeSelector": {"gpu": "h100"}}},
        Cause.SCHEDULE_NO_NODE,
        False,
        "1 node(s) didn't match Pod's node affinity/selector",
    ),
    "suspended": (
        {"spec": {"suspend": True}},
        Cause.SCHEDULE_SUSPENDED,
        False,
        "the Job is suspended (`spec.suspend`)",
    ),
    "pulling": (
        {"container": {"image": "SLOW/tests/shell:1"}},
        Cause.SCHEDULE_IMAGE,
        False,
        "/tests/shell:1 is being pulled",
    ),
    "image": (
        {"container": {"image": "REGISTRY/tests/no-such-image:1"}},
        Cause.IMAGE_NOT_FOUND,
        True,
        "/tests/no-such-image:1: not found",
    ),
    "login": (
        {"container": {"image": "PRIVATE/tests/shell:1"}},
        Cause.IMAGE_AUTH,
        True,
        "no basic auth credentials",
    ),
    "registry": (
        {"container": {"image": "127.0.0.1:9/tests/shell:1"}},
        Cause.IMAGE_UNAVAILABLE,
        False,
        "connection refused",
    ),
    "index": (
        {"container": {"image": "INDEX"}},
        Cause.IMAGE_PLATFORM,
        True,
        "no match for platform in manifest",
    ),
    "secret": (
        variable({"secretKeyRef": {"name": "none", "key": "k"}}),
        Cause.START_REFERENCE,
        False,
        'secret "none" not found',
    ),
    "key": (
        variable({"configMapKeyRef": {"name": "kube-root-ca.crt", "key": "none"}}),
        Cause.START_REFERENCE,
        False,
        "couldn't find key none in ConfigMap",
    ),
    "mount": (
        volume({"secret": {"secretName": "none"}}),
        Cause.START_REFERENCE,
        False,
        'MountVolume.SetUp failed for volume "data" : secret "none" not found',
    ),
    "account": (
        {"pod": {"serviceAccountName": "nobody"}},
        Cause.START_REFERENCE,
        False,
        'serviceaccount "nobody" not found',
    ),
    "claim": (
        claim("none"),
        Cause.START_REFERENCE,
        False,
        'persistentvolumeclaim "none" not found',
    ),
    "unbound": (
        claim("unbound"),
        Cause.SCHEDULE_VOLUME,
        False,
        "pod has unbound immediate PersistentVolumeClaims",
    ),
    "root": (
        {"container": {"securityContext": {"runAsNonRoot": True}}},
        Cause.START_REFUSED,
        True,
        "container has runAsNonRoot and image will run as root",
    ),
    "init": (
        {"pod": {"initContainers": [{**FETCH, "command": ["sleep", "60"]}]}},
        Cause.SCHEDULE_INIT,
        False,
        "init container 'fetch' (1 of 1) runs",
    ),
}


async def test_what_started_jobs_wait_for(
    place: Namespace,
    registries: RegistryFacts,
    cluster_image: str,
    foreign_index: str,
    slow_registry: str,
) -> None:
    place.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "unbound"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "none",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
    )
    names = {
        "SLOW": slow_registry,
        "REGISTRY": registries.address,
        "PRIVATE": registries.private_address,
        "INDEX": foreign_index,
        "SHELL": cluster_image,
    }

    async def seen(item: str) -> tuple[Cause, bool, str] | Progress:
        given, cause, _, part = WAITING[item]
        text = json.dumps(given)
        for name, value in names.items():
            text = text.replace(name, value)
        progress = await pending(place, await place.start(item, json.loads(text)), cause)
        if not isinstance(progress, Pending) or part not in progress.message:
            return progress
        return progress.cause, progress.permanent, part

    found = dict(zip(WAITING, await asyncio.gather(*map(seen, WAITING)), strict=True))
    assert found == {item: expected[1:] for item, expected in WAITING.items()}


async def test_quotas_that_are_too_small_and_that_are_used_up(place: Namespace) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "jobs"}}
    place.apply({**quota, "spec": {"hard": {"pods": "0"}}})
    place.kubectl("wait", "quota/jobs", "--for=jsonpath={.status.hard.pods}=0", "--timeout=60s")
    never = await pending(place, await place.start("zero", {}), Cause.START_REFUSED)
    assert isinstance(never, Pending)
    assert never.permanent
    assert never.message == "exceeded quota: jobs, requested: pods=1, used: pods=0, limited: pods=0"
    place.apply({**quota, "spec": {"hard": {"count/jobs.batch": "1", "pods": "0"}}})
    used = "--for=jsonpath={.status.used.count/jobs\\.batch}=1"
    place.kubectl("wait", "quota/jobs", used, "--timeout=60s")
    created = await place.runner.create(place.request("jobs", {}))
    refused = await place.runner.start(created)
    assert isinstance(refused, NeverStarted)
    assert refused.error.cause is Cause.SCHEDULE_QUOTA  # type: ignore[attr-defined]
    assert "count/jobs.batch=1" in refused.error.message
    assert refused.error.hint is None


async def test_kueue_says_why_it_has_not_admitted_a_job(place: Namespace, kueue: None) -> None:
    """The test plays Kueue: it owns a Workload for the Job, and resumes the Job."""
    queue = {"labels": {"kueue.x-k8s.io/queue-name": "team"}}
    given = {"metadata": queue, "spec": {"suspend": True}}
    workload = await place.start("queued", given)
    async with aclosing(place.runner.watch(workload)) as watching:
        first = await anext(watching)
        assert isinstance(first, Pending)
        assert first.message == "the Job is suspended (`spec.suspend`)"
        uid = place.kubectl("get", "job", workload.name, "-o=jsonpath={.metadata.uid}")
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": workload.name, "uid": uid}
        place.apply(
            {
                "apiVersion": "kueue.x-k8s.io/v1beta1",
                "kind": "Workload",
                "metadata": {"name": "job-queued", "ownerReferences": [owner]},
                "spec": {"queueName": "team"},
            }
        )
        reserved = {
            "type": "QuotaReserved",
            "status": "False",
            "reason": "Pending",
            "message": "couldn't assign flavors to pod set main: insufficient unused quota for cpu",
            "lastTransitionTime": "2026-11-29T20:00:00Z",
        }
        place.set_status("workload/job-queued", {"conditions": [reserved]})
        said = await until(
            watching, lambda one: isinstance(one, Pending) and "flavors" in one.message
        )
        assert isinstance(said, Pending)
        assert said.cause is Cause.SCHEDULE_SUSPENDED
        assert said.message == f"Kueue: {reserved['message']}"
        change = json.dumps({"spec": {"suspend": False}})
        place.kubectl("patch", "job", workload.name, f"-p={change}")
        over = await until(watching, lambda one: isinstance(one, Ended))
        assert isinstance(over, Ended)
        assert bare(over.ending) == Ending(0)


@pytest.fixture(scope="module")
def kueue(kubernetes_cluster: KubernetesFacts) -> Iterator[None]:
    """As much of Kueue's Workload as is looked at, unless the cluster has Kueue."""
    if "workloads" in kubectl(kubernetes_cluster, "api-resources", "--api-group=kueue.x-k8s.io"):
        yield
        return
    version = {
        "name": "v1beta1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        },
    }
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "workloads.kueue.x-k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": "kueue.x-k8s.io",
            "scope": "Namespaced",
            "names": {"kind": "Workload", "plural": "workloads"},
            "versions": [version],
        },
    }
    kubectl(kubernetes_cluster, "apply", "-f", "-", stdin=json.dumps(definition))
    name = "crd/workloads.kueue.x-k8s.io"
    kubectl(kubernetes_cluster, "wait", "--for=condition=Established", name)
    yield
    kubectl(kubernetes_cluster, "delete", "--wait=false", name)


#: What is asked for and run → exit code, cause, and a part of the message.
ENDINGS: dict[str, tuple[Json, str, int | None, Cause | None, str]] = {
    "memory": (
        {"container": {"resources": {"limits": {"memory": "32Mi"}}}},
        "x=a; while :; do x=$x$x; done",
        137,
        Cause.RUN_OUT_OF_MEMORY,
        "more memory than it was given",
    ),
    "deadline": (
        {"spec": {"activeDeadlineSeconds": 2}},
        WAITS,
        None,
        Cause.RUN_DEADLINE,
        "the Job's `activeDeadlineSeconds` (2) have passed",
    ),
    "late": (
        {"spec": {"activeDeadlineSeconds": 1}, "pod": {"nodeSelector": {"gpu": "h100"}}},
        "true",
        None,
        Cause.SCHEDULE_TIMEOUT,
        "the Job's `activeDeadlineSeconds` (1) have passed",
    ),
    "pod-deadline": (
        {"pod": {"activeDeadlineSeconds": 2}},
        WAITS,
        143,
        Cause.RUN_DEADLINE,
        "Pod was active on the node longer than the specified deadline",
    ),
    "init": (
        {"pod": {"initContainers": [{**FETCH, "command": ["false"]}]}},
        "true",
        None,
        Cause.START_INIT,
        "init container 'fetch' failed (exit code 1)",
    ),
    "command": (
        {"container": {"command": ["/no/such"]}},
        "",
        None,
        Cause.START_ENTRYPOINT,
        "no such file or directory",
    ),
    "platform": (
        {"container": {"image": "FOREIGN"}},
        "true",
        None,
        Cause.IMAGE_PLATFORM,
        "exec format error: the image is for another processor architecture",
    ),
    "retried": ({"spec": {"backoffLimit": 1}}, "exit 5", 5, None, ""),
}


async def test_how_jobs_end(place: Namespace, cluster_image: str, foreign_image: str) -> None:
    async def seen(item: str) -> tuple[int | None, Cause | None, str] | Ending:
        given, script, *_, part = ENDINGS[item]
        text = json.dumps(given).replace("SHELL", cluster_image).replace("FOREIGN", foreign_image)
        ending = await ended(place.runner, await place.start(item, json.loads(text), script))
        if part not in ending.message:
            return ending
        return ending.exit_code, ending.cause, part

    found = dict(zip(ENDINGS, await asyncio.gather(*map(seen, ENDINGS)), strict=True))
    assert found == {item: expected[2:] for item, expected in ENDINGS.items()}


async def test_a_pod_that_is_evicted_and_one_that_somebody_deletes(place: Namespace) -> None:
    evicted = await place.start("evicted", {}, WAITS)
    deleted = await place.start("deleted", {}, WAITS)
    for workload in (evicted, deleted):
        await first_piece(place.runner, workload)
    watching = [asyncio.create_task(ended(place.runner, one)) for one in (evicted, deleted)]
    pod = place.pod_of(evicted).removeprefix("pod/")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{place.name}/pods/{pod}/eviction"
    kubectl(place._cluster, "create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    place.kubectl("delete", place.pod_of(deleted), "--wait=false")
    first, second = await asyncio.gather(*watching)
    assert first.cause is Cause.PREEMPTED
    assert first.message == "Eviction API: evicting"
    assert bare(second) == Ending(143, signal=15)
    assert second.message == "its pod was deleted by another program or user"


async def test_a_running_job_that_is_suspended_runs_again_when_it_is_resumed(
    place: Namespace,
) -> None:
    """As a queue does that takes a job's place away for a while."""
    workload = await place.start("suspended", {}, WAITS)
    await first_piece(place.runner, workload)
    async with aclosing(place.runner.watch(workload)) as watching:
        assert isinstance(await until(watching, lambda one: isinstance(one, Running)), Running)
        for suspend, kind in ((True, Pending), (False, Running)):
            change = json.dumps({"spec": {"suspend": suspend}})
            place.kubectl("patch", "job", workload.name, f"-p={change}")
            seen = await until(watching, lambda one, kind=kind: type(one) in {kind, Ended})
            assert isinstance(seen, kind)
            if isinstance(seen, Pending):
                assert seen.cause is Cause.SCHEDULE_SUSPENDED
        await place.runner.stop(workload, 1)
        assert isinstance(await until(watching, lambda one: isinstance(one, Ended)), Ended)


async def test_a_node_that_is_gone_takes_its_job_with_it(place: Namespace, lost_node: str) -> None:
    """The test plays a node: it reports a running pod, and then says nothing any more."""
    taint = {"key": "launch-test/lost", "operator": "Exists"}
    given = {"pod": {"nodeName": lost_node, "tolerations": [taint]}}
    workload = await place.start("lost", given)
    await pending(place, workload, Cause.SCHEDULE_SETUP)
    async with aclosing(place.runner.watch(workload)) as watching:
        state = {"running": {"startedAt": "2026-11-29T20:00:00Z"}}
        container = {
            "name": "launch0", "state": state, "ready": True, "restartCount": 0,
            "image": "x", "imageID": "x",
        }  # fmt: skip
        place.set_status(
            place.pod_of(workload), {"phase": "Running", "containerStatuses": [container]}
        )
        assert isinstance(await until(watching, lambda one: isinstance(one, Running)), Running)
        place.kubectl("taint", "node", lost_node, "launch-test/gone:NoExecute")
        over = await until(watching, lambda one: isinstance(one, Ended))
    assert isinstance(over, Ended)
    assert (over.ending.exit_code, over.ending.cause) == (None, Cause.LOST_NODE)
    assert over.ending.message.startswith(f"node '{lost_node}' does not end the job's pod")
    pod = place.pod_of(workload)
    place.kubectl("delete", pod, "--force", "--grace-period=0", "--wait=false")


@pytest.fixture
def lost_node(kubernetes_cluster: KubernetesFacts, place: Namespace) -> Iterator[str]:
    """A node of which there is only the object."""
    name = f"lost-{place.name}"
    taint = {"key": "launch-test/lost", "effect": "NoSchedule"}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"taints": [taint]},
    }
    kubectl(kubernetes_cluster, "create", "-f", "-", stdin=json.dumps(node))
    yield name
    kubectl(kubernetes_cluster, "delete", "node", name)
