"""Jobs as custom resources of a real cluster; the test plays their operator."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.ports.runner import (
    LOG_START,
    Ended,
    NeverStarted,
    Pending,
    Running,
    RunRequest,
    Started,
    WorkloadState,
)
from agent.testing.runner_suite import Scenario, bare, ended, launched, read_all, started_before
from tests.contract.kubernetes_driver import KubernetesDriver
from tests.contract.lossy_api import credentials_proxy, lossy_api
from tests.infrastructure.process import run
from tests.infrastructure.state import KubernetesFacts

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]

#: Kind → plural and scope: nobody guesses these.
KINDS = {"Fox": ("foxes", "Namespaced"), "Herd": ("herds", "Cluster")}


@pytest.fixture(scope="module")
def group(kubernetes_cluster: KubernetesFacts) -> Iterator[str]:
    """An API group with two kinds."""
    name = f"t{uuid.uuid4().hex[:10]}.example.org"
    kubectl = [kubernetes_cluster.kubectl, f"--kubeconfig={kubernetes_cluster.kubeconfig}"]
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    for kind, (plural, scope) in KINDS.items():
        version = {"name": "v1", "served": True, "storage": True}
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{name}"},
            "spec": {
                "group": name,
                "scope": scope,
                "names": {"kind": kind, "plural": plural},
                "versions": [{**version, "schema": {"openAPIV3Schema": schema}}],
            },
        }
        run([*kubectl, "create", "-f", "-"], stdin=yaml.safe_dump(definition))
    names = [f"crd/{plural}.{name}" for plural, _ in KINDS.values()]
    run([*kubectl, "wait", "--for=condition=Established", *names])
    yield name
    run([*kubectl, "delete", "--wait=false", *names])


@pytest.fixture(scope="module")
def api_address(kubernetes_cluster: KubernetesFacts) -> Iterator[str]:
    with credentials_proxy(kubernetes_cluster) as address:
        yield address


class Operator:
    """Makes a pod of the template of a Fox, and writes its status."""

    def __init__(self, driver: KubernetesDriver, group: str) -> None:
        self._driver = driver
        self._plural = f"{KINDS['Fox'][0]}.{group}"

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._call("get", self._plural, name, "-o", "json"))
        return found

    def make_pod(self, name: str) -> None:
        fox = self.get(name)
        owner = {key: fox[key] for key in ("apiVersion", "kind")} | {
            "name": name,
            "uid": fox["metadata"]["uid"],
            "controller": True,
        }
        template = fox["spec"]["members"][0]["template"]
        metadata = {**template["metadata"], "name": f"{name}-0", "ownerReferences": [owner]}
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}
        self._call("create", "-f", "-", stdin=json.dumps(pod))

    def write(self, name: str, status: dict[str, Any]) -> None:
        change = json.dumps({"status": status})
        self._call("patch", self._plural, name, "--type=merge", "-p", change)

    def wait_for_pod(self, name: str, phase: str) -> None:
        """An operator writes its status when it has seen the pod end."""
        condition = f"--for=jsonpath={{.status.phase}}={phase}"
        self._call("wait", condition, "--timeout=120s", f"pod/{name}-0")

    def everything(self) -> list[str]:
        kinds = f"{self._plural},pods,secrets"
        return self._call("get", kinds, "-o", "name", "--ignore-not-found").split()

    def _call(self, *arguments: str, stdin: str = "") -> str:
        return self._driver.kubectl("-n", self._driver.namespace, *arguments, stdin=stdin)


@pytest.fixture
async def driver(
    tmp_path: Path, kubernetes_cluster: KubernetesFacts, cluster_image: str, api_address: str
) -> AsyncIterator[KubernetesDriver]:
    async with lossy_api(api_address) as api:
        driver = KubernetesDriver(tmp_path, kubernetes_cluster, cluster_image, api)
        await driver.prepare(runners=2)
        yield driver
        await driver.clear()


@pytest.fixture
def operator(driver: KubernetesDriver, group: str) -> Operator:
    return Operator(driver, group)


def fox(driver: KubernetesDriver, group: str, scenario: Scenario) -> RunRequest:
    """The suite's job, in a list of a Fox's members."""
    request = driver.request(scenario)
    pod = request.arguments["spec"]["template"]["spec"]
    container = {**pod["containers"][0], "name": "main", "image": driver.image.reference}
    template = {"spec": {**pod, "containers": [container], "restartPolicy": "Never"}}
    manifest = {
        "apiVersion": f"{group}/v1",
        "kind": "Fox",
        "metadata": {"labels": {"team": "red"}},
        "spec": {"members": [{"template": template}]},
    }
    return replace(request, arguments=manifest, template=manifest)


async def test_a_custom_resource_runs_to_its_end_and_leaves_nothing(
    driver: KubernetesDriver, operator: Operator, group: str
) -> None:
    runner = driver.runner()
    workload = await launched(runner, fox(driver, group, Scenario(b"hello\n", waits=True)))
    assert operator.get(workload.name)["metadata"]["labels"]["team"] == "red"
    watching = runner.watch(workload)
    pending = await anext(watching)
    assert isinstance(pending, Pending)
    assert (pending.cause, "no operator" in pending.message) == (Cause.SCHEDULE_SETUP, True)
    operator.make_pod(workload.name)
    async for progress in watching:
        if isinstance(progress, Running):
            break
    await driver.release(workload.name)
    assert await anext(runner.logs(workload, LOG_START)) is not None
    operator.wait_for_pod(workload.name, "Succeeded")
    operator.write(workload.name, {"conditions": [{"type": "Succeeded", "status": "True"}]})
    rest = [progress async for progress in watching]
    assert isinstance(rest[-1], Ended)
    assert bare(rest[-1].ending).exit_code == 0
    assert await read_all(runner, workload) == b"[0] hello\n"
    await runner.destroy(workload)
    assert await runner.owned() == []
    while operator.everything():
        await asyncio.sleep(0.1)


async def test_another_agent_adopts_it_and_starts_it_no_second_time(
    driver: KubernetesDriver, operator: Operator, group: str
) -> None:
    request = fox(driver, group, Scenario(b"up\n", exit_code=3, waits=True))
    workload = await launched(driver.runner(), request)
    uid = operator.get(workload.name)["metadata"]["uid"]
    adopter = driver.runner()
    (found,) = await adopter.owned()
    assert (found.name, found.id, found.state) == (
        workload.name, workload.id, WorkloadState.PENDING,
    )  # fmt: skip
    again = await started_before(adopter, found)
    assert again.id == workload.id
    assert (await adopter.create(request)).id == workload.id
    operator.make_pod(workload.name)
    assert (await anext(adopter.logs(found, LOG_START))).data == b"[0] up\n"
    assert (await adopter.find(workload.name) or found).state is WorkloadState.RUNNING
    await driver.release(workload.name)
    waiting = asyncio.create_task(ended(adopter, found))
    operator.wait_for_pod(workload.name, "Failed")
    operator.write(workload.name, {"phase": "Failed", "message": "a member failed"})
    ending = await waiting
    assert (ending.exit_code, operator.get(workload.name)["metadata"]["uid"]) == (3, uid)


async def test_a_stop_removes_it_and_ends_its_pods(
    driver: KubernetesDriver, operator: Operator, group: str
) -> None:
    runner = driver.runner()
    workload = await launched(runner, fox(driver, group, Scenario(b"up\n", waits=True)))
    operator.make_pod(workload.name)
    await anext(runner.logs(workload, LOG_START))
    waiting = asyncio.create_task(ended(runner, workload))
    await runner.stop(workload, 5)
    await waiting
    assert not [name for name in operator.everything() if name.startswith("fox")]
    await runner.destroy(workload)
    assert await runner.owned() == []


@pytest.mark.parametrize(
    ("version", "kind", "words"),
    [
        ("{group}/v1", "Wolf", "no kind 'Wolf'. It has Fox, Herd."),
        ("{group}/v9", "Fox", "no API '{group}/v9', for the kind 'Fox'. It has {group}/v1."),
        ("nothing.example.org/v1", "Fox", "Install the operator that serves 'nothing.example.org'"),
        ("{group}/v1", "Herd", "are in no namespace"),
    ],
)
async def test_what_the_cluster_does_not_have_is_named_before_the_start(
    driver: KubernetesDriver, operator: Operator, group: str, version: str, kind: str, words: str
) -> None:
    request = fox(driver, group, Scenario())
    named = {**request.arguments, "apiVersion": version.format(group=group), "kind": kind}
    runner = driver.runner()
    with pytest.raises(PolicyError) as caught:
        await runner.create(replace(request, arguments=named, template=named))
    assert words.format(group=group) in str(caught.value)
    assert caught.value.cause is Cause.POLICY_SPEC
    assert operator.everything() == []


async def test_unknown_fields_of_a_job_are_named(driver: KubernetesDriver) -> None:
    request = driver.request(Scenario())
    misspelt = {"spec": {**request.arguments["spec"], "backofLimit": 2}}
    runner = driver.runner()
    result = await runner.start(await runner.create(replace(request, arguments=misspelt)))
    assert isinstance(result, NeverStarted)
    assert 'unknown field "spec.backofLimit"' in str(result.error)
    assert result.error.cause is Cause.POLICY_SPEC  # type: ignore[attr-defined]


async def test_a_large_environment_reaches_the_job(
    driver: KubernetesDriver,
) -> None:
    request = driver.request(Scenario(b"x\n"))
    values = {f"V{index}": "x" * 120_000 for index in range(6)}
    runner = driver.runner()
    result = await runner.start(await runner.create(replace(request, environment=values)))
    assert isinstance(result, Started)
    assert bare(await ended(runner, result.workload)).exit_code == 0
