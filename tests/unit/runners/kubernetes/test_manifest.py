"""Run requests as Kubernetes objects; the files in `golden/` hold request and result."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.model.errors import InvalidInputError, LaunchError, PolicyError
from agent.pipeline.resolve import expand
from agent.runners.kubernetes.api import JOBS
from agent.runners.kubernetes.manifest import (
    SECRET_UID,
    ManifestSettings,
    label_value,
    manifest_in,
    objects_of,
)
from tests.unit.runners.kubernetes.run_requests import IMAGE, request_for

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = ManifestSettings("jobs")


def workload_of(arguments: dict[str, Any], **given: Any) -> dict[str, Any]:
    return objects_of(request_for(arguments, **given), SETTINGS).workload


def job_with(pod: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"template": {"spec": pod}}}


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_a_request_becomes_these_objects(name: str) -> None:
    case = yaml.safe_load((GOLDEN / name).read_text())
    arguments = expand(case["arguments"], {"image_uri": IMAGE.reference})
    request = request_for(arguments, **case["given"])
    made = objects_of(request, ManifestSettings("jobs", **case.get("settings", {})))
    assert made.workload == case["workload"]
    assert {key: value.decode() for key, value in made.secret_data.items()} == case["secret"]


def test_the_secret_holds_the_manifest_and_nothing_secret_is_beside_it() -> None:
    request = request_for({}, environment={"WANDB_API_KEY": "launchrun-x", "WANDB_RUN_ID": "r"})
    made = objects_of(request, SETTINGS)
    secret = made.secret(request, "jobs", JOBS)
    assert secret["immutable"] is True
    assert "launchrun-x" not in repr(made.workload)
    assert "launchrun-x" not in repr(secret["metadata"])
    assert "launchrun-x" not in repr(made)
    stored = {**secret, "metadata": {**secret["metadata"], "uid": "u1"}}
    manifest = manifest_in(stored)
    assert manifest["metadata"]["annotations"].pop(SECRET_UID) == "u1"
    assert manifest == made.workload


def test_an_environment_beyond_a_secret_is_refused_with_its_size() -> None:
    request = request_for({}, environment={"WANDB_CONFIG": "x" * 1024 * 1024})
    with pytest.raises(InvalidInputError, match="a Kubernetes Secret holds 1048576"):
        objects_of(request, SETTINGS).secret(request, "jobs", JOBS)


def test_the_manifest_is_not_changed_in_place() -> None:
    arguments = job_with({"containers": [{"name": "a", "env": []}]})
    request = request_for(arguments, args=["1"])
    objects_of(request, SETTINGS)
    assert arguments == job_with({"containers": [{"name": "a", "env": []}]})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (job_with({"containers": [{"name": "a"}, {"name": "b"}]}), "'b' .* has no image"),
        (job_with({"initContainers": [{"name": "i"}]}), "'i' .* has no image"),
        (job_with({"containers": {"name": "a"}}), "`containers` .* list"),
        (job_with({"containers": ["a"]}), "`containers` .* list"),
        ({"spec": {"template": []}}, "`template` .* must be an object"),
        ({"spec": "x"}, "`spec` .* must be an object"),
        ({"metadata": {"name": "x" * 64}}, r"metadata.name"),
        ({"metadata": {"name": "Train_1"}}, r"metadata.name"),
        ({"metadata": {"namespace": "kube-system"}}, "'kube-system'.*'jobs'"),
        ({"namespace": "kube-system"}, "'kube-system'.*'jobs'"),
        ({"configFile": "/etc/shadow"}, "`kubernetes.configFile`"),
        ({"image": "x"}, "`kubernetes.image`"),
        (job_with({"restartPolicy": "OnFailure"}), "restartPolicy.*OnFailure"),
        ({"spec": {"manualSelector": True}}, "manualSelector"),
        ({"spec": {"selector": {"matchLabels": {"a": "b"}}}}, "selector"),
        ({"apiVersion": "kubeflow.org/v1"}, "`kubernetes.kind` is missing"),
    ],
)
def test_bad_manifests_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        workload_of(arguments)


def test_mounts_of_the_agents_machine_are_refused() -> None:
    with pytest.raises(PolicyError, match="'data' is a folder"):
        workload_of({}, mounts=["data"])


def test_wandbs_keys_beside_a_manifest_are_taken() -> None:
    given = {"namespace": "jobs", "wait_for_ready": False, "wait_timeout": 3}
    assert workload_of(given) == workload_of({})
    assert workload_of({"apiVersion": "batch/v1beta1"})["apiVersion"] == "batch/v1"


def test_a_name_is_kept_as_an_annotation() -> None:
    made = workload_of({"metadata": {"name": "train"}})
    assert made["metadata"]["name"] == "launch-plane-item7-1"
    assert made["metadata"]["annotations"] == {"launch-agent/requested-name": "train"}


def test_a_security_context_that_the_administrator_allows_keeps_the_rest() -> None:
    made = workload_of(job_with({"containers": [{"securityContext": {"runAsUser": 7}}]}))
    context = made["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    assert (context["runAsUser"], context["capabilities"]) == (7, {"drop": ["ALL"]})


def test_a_service_account_brings_its_token() -> None:
    made = workload_of(job_with({"serviceAccountName": "trainer"}))
    assert "automountServiceAccountToken" not in made["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("agent 1/x", "agent-1-x"), ("-a-", "a"), ("", ""), ("é", ""), ("a" * 70, "a" * 63)],
)
def test_names_of_agents_become_values_of_labels(text: str, value: str) -> None:
    assert label_value(text) == value


def mounted(arguments: dict[str, Any]) -> dict[str, Any]:
    version = {"reference": "people/things/code:v3", "digest": "0f1e"}
    request = request_for(
        expand(arguments, {"image_uri": IMAGE.reference}),
        command=["sh", "main.sh"],
        environment={"WANDB_BASE_URL": "http://plane", "WANDB_API_KEY": "launchrun-x"},
        mounted_code={"version": version, "context": ".", "user_id": 0},
    )
    return objects_of(request, ManifestSettings("jobs", code_image="launch:1")).workload


def test_pods_of_a_custom_resource_get_the_code_where_they_run_the_job() -> None:
    job = {"spec": {"containers": [{"name": "a", "image": "${image_uri}", "env": ["odd"]}]}}
    other = {"spec": {"containers": [{"name": "a", "image": "redis:1"}]}}
    made = mounted(
        {"apiVersion": "x.org/v1", "kind": "X", "spec": {"worker": job, "cache": other, "none": {}}}
    )
    worker = made["spec"]["worker"]["spec"]
    (fetch,) = worker["initContainers"]
    assert fetch["securityContext"]["allowPrivilegeEscalation"] is False
    assert fetch["securityContext"]["runAsUser"] == 0
    assert worker["containers"][0]["workingDir"] == "/home/launch/src"
    assert "initContainers" not in made["spec"]["cache"]["spec"]
    assert "volumes" not in made["spec"]["cache"]["spec"]


def test_the_user_of_the_template_owns_the_code() -> None:
    containers = [{"name": "a"}]
    made = mounted(job_with({"securityContext": {"runAsUser": 7}, "containers": containers}))
    pod = made["spec"]["template"]["spec"]
    assert "runAsUser" not in pod["containers"][0]["securityContext"]
    assert pod["initContainers"][0]["securityContext"]["runAsUser"] == 7


@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_the_name_of_the_fetch_is_the_agents(kind: str) -> None:
    containers = {"containers": [{"name": "a", "image": "x"}]}
    with pytest.raises(PolicyError, match="'launch-code' is for the agent's own container"):
        workload_of(job_with(containers | {kind: [{"name": "launch-code", "image": "x"}]}))
