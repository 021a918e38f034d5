"""What `additional_services` become, and what they may not hold."""

from typing import Any

import pytest

from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, PolicyError
from agent.runners.kubernetes.api import JOBS
from agent.runners.kubernetes.manifest import Beside, ManifestSettings, beside_in, objects_of
from agent.runners.kubernetes.policy import check_side_service
from tests.unit.runners.kubernetes.run_requests import request_for

CONTAINER = {"name": "cache", "image": "redis:7", "env": [{"name": "MODE", "value": "small"}]}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "Cache_r1", "labels": {"team": "a"}},
    "spec": {
        "selector": {"matchLabels": {"app": "cache"}},
        "template": {"metadata": {"labels": {"app": "cache"}}, "spec": {"containers": [CONTAINER]}},
    },
}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "cache"},
    "spec": {"selector": {"app": "cache"}, "ports": [{"port": 6379}]},
}
ENVIRONMENT = {
    "WANDB_RUN_ID": "r1",
    "WANDB_ENTITY": "team",
    "WANDB_PROJECT": "p",
    "WANDB_API_KEY": "launchrun-x",
    "WANDB_CONFIG": "{}",
    "HF_TOKEN": "secret",
}


def beside(*services: dict[str, Any], **arguments: Any) -> Beside:
    request = request_for(arguments, services=services, environment=ENVIRONMENT)
    found = objects_of(request, ManifestSettings("jobs", pull_secrets=("registry",))).beside
    assert found is not None
    return found


def test_a_deployment_is_labelled_confined_and_given_key_and_parameters_alone() -> None:
    (made,) = beside(DEPLOYMENT).services
    assert made["metadata"] == {
        "name": "cache-r1",
        "namespace": "jobs",
        "labels": {
            "team": "a",
            "wandb.ai/created-by": "launch-agent",
            "wandb.ai/run-id": "r1",
            "wandb.ai/auxiliary-resource": "aux-team-p-r1",
            "launch-agent.side-service-of": "launch-plane-item7-1",
        },
    }
    template = made["spec"]["template"]
    # With the labels of the job, its pods would count as the job's.
    assert template["metadata"]["labels"] == {"app": "cache"}
    pod = template["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    (container,) = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert [each["name"] for each in container["env"]] == ["MODE", "WANDB_API_KEY", "WANDB_CONFIG"]


def test_claims_of_a_stateful_set_go_with_it() -> None:
    (made,) = beside(DEPLOYMENT | {"kind": "StatefulSet"}).services
    assert made["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"


def test_the_secret_keeps_them_for_whoever_starts_the_job() -> None:
    request = request_for(
        {"wait_for_ready": False, "wait_timeout": 7}, services=(SERVICE,), environment=ENVIRONMENT
    )
    objects = objects_of(request, ManifestSettings("jobs"))
    assert objects.beside == beside_in(objects.secret(request, "jobs", JOBS))
    assert objects.beside is not None
    assert (objects.beside.wait, objects.beside.seconds) == (False, 7)
    plain = objects_of(request_for({}), ManifestSettings("jobs"))
    assert beside_in(plain.secret(request_for({}), "jobs", JOBS)) is None


@pytest.mark.parametrize(
    ("service", "arguments"),
    [
        (SERVICE | {"metadata": {}}, {}),
        (SERVICE | {"metadata": {"name": "___"}}, {}),
        ({"kind": "Service", "metadata": {"name": "a"}}, {}),
        (SERVICE, {"wait_timeout": "soon"}),
        (SERVICE, {"wait_timeout": 0}),
        (SERVICE, {"wait_for_ready": "yes"}),
    ],
)
def test_what_cannot_be_read_is_refused(service: dict[str, Any], arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        beside(service, **arguments)


@pytest.mark.parametrize(
    "service",
    [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding"},
        {"apiVersion": "v1", "kind": "Secret"},
        {"apiVersion": "v1", "kind": "ServiceAccount"},
        {"apiVersion": "apps/v1", "kind": "DaemonSet"},
        {"apiVersion": "example.org/v1", "kind": "Cache"},
        SERVICE | {"spec": {"type": "LoadBalancer"}},
        SERVICE | {"spec": {"type": "NodePort"}},
        SERVICE | {"spec": {"externalIPs": ["10.0.0.1"]}},
        SERVICE | {"spec": {"type": "ExternalName", "externalName": "inside.example"}},
        DEPLOYMENT | {"spec": {"template": {"spec": {"hostNetwork": True}}}},
        DEPLOYMENT | {"spec": {"template": {"spec": {"serviceAccountName": "admin"}}}},
        SERVICE | {"metadata": {"name": "a", "labels": {"launch-agent.item": "other"}}},
        SERVICE | {"metadata": {"name": "a", "ownerReferences": [{"uid": "u"}]}},
        {"apiVersion": "batch/v1", "kind": "Job", "spec": {"manualSelector": True}},
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "spec": {"selector": {"matchLabels": {"a": "b"}}},
        },
    ],
)
def test_what_reaches_beyond_the_pods_is_refused(service: dict[str, Any]) -> None:
    with pytest.raises(PolicyError) as refused:
        check_side_service({"metadata": {"name": "a"}, **service}, 0, ())
    assert refused.value.cause is Cause.POLICY_RESOURCE


def test_the_administrator_may_allow_more() -> None:
    custom = {"apiVersion": "example.org/v1", "kind": "Cache", "metadata": {"name": "a"}}
    check_side_service(custom, 0, ("kind=Cache",))
    check_side_service(SERVICE | {"spec": {"type": "NodePort"}}, 0, ("type=NodePort",))
    path = "additional_services.*.config.spec.externalIPs"
    check_side_service(SERVICE | {"spec": {"externalIPs": ["10.0.0.1"]}}, 0, (path,))


def test_a_refusal_names_the_path() -> None:
    service = SERVICE | {"spec": {"type": "NodePort"}}
    with pytest.raises(PolicyError, match=r"`additional_services.3.config.spec.type`"):
        check_side_service(service, 3, ())
