"""What manifests may not hold, in every place where somebody may hide it."""

from typing import Any

import pytest

from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.runners.kubernetes.policy import check_manifest

CUSTOM = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob"}

REFUSED: list[dict[str, Any]] = [
    {"securityContext": {}},
    {"securityContext": None},
    {"hostPath": {"path": "/"}},
    {"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
    {"hostPID": True},
    {"hostIPC": "yes"},
    {"hostNetwork": 1},
    {"HostNetwork": True},
    {"hostnetwork": "true"},
    {"shareProcessNamespace": True},
    {"hostUsers": True},
    {"automountServiceAccountToken": True},
    {"ports": [{"hostPort": 80}]},
    {"serviceAccountName": "admin"},
    {"serviceAccount": "admin"},
    {"mountPropagation": "Bidirectional"},
    {"mountPropagation": " bidirectional"},
    {"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}},
    {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "Unconfined"}},
    {"livenessProbe": {"httpGet": {"host": "169.254.169.254", "port": 80}}},
    {"lifecycle": {"postStart": {"tcpSocket": {"host": "10.0.0.1", "port": 22}}}},
    {"finalizers": ["x/y"]},
    {"ownerReferences": [{"uid": "u"}]},
]
GRANTED: list[dict[str, Any]] = [
    {"valueFrom": {"secretKeyRef": {"name": "db", "key": "k"}}},
    {"envFrom": [{"secretRef": {"name": "db"}}]},
    {"volumes": [{"name": "v", "secret": {"secretName": "db"}}]},
    {"projected": {"sources": [{"secret": {"name": "db"}}]}},
    {"valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
    {"envFrom": [{"configMapRef": {"name": "c"}}]},
    {"volumes": [{"name": "v", "configMap": {"name": "c"}}]},
    {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "theirs"}}]},
    {"volumes": [{"name": "v", "csi": {"driver": "secrets-store.csi.k8s.io"}}]},
    {"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]},
    {"volumes": [{"name": "v", "flexVolume": {"driver": "d"}}]},
    {"dataSource": {"kind": "PersistentVolumeClaim", "name": "theirs"}},
    {"volumeClaimTemplate": {"spec": {"dataSourceRef": {"kind": "Snapshot", "name": "theirs"}}}},
    {"volumeClaimTemplates": [{"spec": {"volumeName": "pv-of-theirs"}}]},
    {"imagePullSecrets": [{"name": "regcred"}]},
    {"priorityClassName": "system-cluster-critical"},
    {"nodeName": "control-plane-1"},
    {"runtimeClassName": "unsandboxed"},
]
RESERVED: list[dict[str, Any]] = [
    {"labels": {"launch-agent.item": "other"}},
    {"labels": {"Launch-Agent.item": "other"}},
    {"annotations": {"launch-agent/created-as": "uid"}},
    {"labels": {"batch.kubernetes.io/job-name": "launch-plane-other-1"}},
    {"labels": {"job-name": "launch-plane-other-1"}},
    {"secretKeyRef": {"name": "launch-plane-other-1", "key": "env.0"}},
    {"volumes": [{"secret": {"secretName": "launch-plane-other-1"}}]},
    {"imagePullSecrets": [{"name": "launch-plane-other-1"}]},
]


def in_places(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Manifests with a part in the pod, a container, and deep in lists of a custom resource."""
    return [
        {"spec": {"template": {"spec": part}}},
        {"spec": {"template": {"spec": {"initContainers": [{"name": "a"}, part]}}}},
        {"spec": {"template": {"spec": {"ephemeralContainers": [part]}}}},
        {**CUSTOM, "spec": {"replicas": [[{"template": {"spec": {"containers": [part]}}}]]}},
        part,
    ]


def refusal(
    manifest: dict[str, Any],
    template: dict[str, Any] | None = None,
    allowed: tuple[str, ...] = (),
) -> str:
    with pytest.raises(PolicyError) as caught:
        check_manifest(manifest, CUSTOM if template is None else template, allowed)
    assert caught.value.cause is Cause.POLICY_RESOURCE
    return str(caught.value)


@pytest.mark.parametrize("part", REFUSED, ids=repr)
def test_what_reaches_the_node_is_refused_everywhere(part: dict[str, Any]) -> None:
    for manifest in in_places(part):
        # The queue's template cannot grant it.
        assert "may not be set by a job or its queue" in refusal(manifest, manifest)


@pytest.mark.parametrize("part", GRANTED, ids=repr)
def test_what_the_template_sets_may_be_used_and_nothing_else(part: dict[str, Any]) -> None:
    for manifest in in_places(part):
        assert "may be set by the queue's template only" in refusal(manifest)
        check_manifest(manifest, {**CUSTOM, "elsewhere": part}, ())


def test_another_key_of_a_granted_secret_is_not_granted() -> None:
    template = {"secretKeyRef": {"name": "db", "key": "user"}}
    assert "secretKeyRef" in refusal({"secretKeyRef": {"name": "db", "key": "admin"}}, template)


@pytest.mark.parametrize("part", RESERVED, ids=repr)
def test_what_is_the_agents_own_is_refused_even_if_allowed(part: dict[str, Any]) -> None:
    allowed = ("secretKeyRef", "secret", "imagePullSecrets", "labels", "launch-agent.item")
    for manifest in in_places(part):
        refusal(manifest, manifest, allowed)


@pytest.mark.parametrize(
    "part",
    [
        {"hostNetwork": False, "hostPort": 0, "serviceAccountName": "", "hostUsers": False},
        {"automountServiceAccountToken": False, "mountPropagation": "HostToContainer"},
        {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "d", "downwardAPI": {"items": []}}]},
        {"labels": {"secret": "yes", "app": "x"}, "env": [{"name": "A", "value": "hostPath: /"}]},
        {"tolerations": [{"key": "gpu"}], "nodeSelector": {"a": "b"}, "command": ["nfs"]},
        {"readinessProbe": {"httpGet": {"port": 80, "host": ""}}},
    ],
    ids=repr,
)
def test_what_is_harmless_passes(part: dict[str, Any]) -> None:
    for manifest in in_places(part)[:4]:
        check_manifest(manifest, CUSTOM, ())


POD = {"volumes": [{"name": "v", "hostPath": {"path": "/data/sets"}}], "serviceAccountName": "sa"}
MANIFEST = {"spec": {"template": {"spec": POD}}}


@pytest.mark.parametrize(
    "allowed",
    [
        ("hostPath", "serviceAccountName"),
        ("HOSTPATH", "serviceAccountName=s?"),
        ("hostPath=/data/*", "serviceAccountName=sa"),
        ("spec.template.spec.volumes.*.hostPath", "spec.template.spec.serviceAccountName"),
    ],
)
def test_the_administrator_allows_keys_paths_and_values(allowed: tuple[str, ...]) -> None:
    check_manifest(MANIFEST, {}, allowed)


@pytest.mark.parametrize(
    "allowed",
    [
        ("hostPath=/home/*", "serviceAccountName"),
        ("hostPath", "serviceAccountName=admin"),
        ("spec.volumes.*.hostPath", "serviceAccountName"),
        ("spec", "volumes"),
    ],
)
def test_an_entry_allows_no_more_than_it_says(allowed: tuple[str, ...]) -> None:
    refusal(MANIFEST, {}, allowed)


def test_a_second_name_in_a_reference_allows_nothing() -> None:
    part = {"secret": {"secretName": "db", "name": "ours"}}
    refusal(part, {}, ("secret=ours",))


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("v1", "Pod"),
        ("v1", "Secret"),
        ("apps/v1", "DaemonSet"),
        ("batch/v1", "CronJob"),
        ("", "CronJob"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ],
)
def test_the_clusters_own_kinds_are_no_jobs(version: str, kind: str) -> None:
    manifest = {"apiVersion": version, "kind": kind}
    assert kind in refusal(manifest, manifest, ("kind",))


def test_a_custom_kind_comes_from_the_template_or_the_administrator() -> None:
    assert "kind=PyTorchJob" in refusal(dict(CUSTOM), {})
    assert "kind" in refusal(dict(CUSTOM), {**CUSTOM, "kind": "Workflow"})
    check_manifest(dict(CUSTOM), {}, ("kind=PyTorchJob",))
    check_manifest(dict(CUSTOM), dict(CUSTOM), ())


@pytest.mark.parametrize(
    "text",
    [
        '{"hostNetwork":true}',
        "spec:\n  hostNetwork: true\n",
        '{"host\\u004eetwork": true}',
        '{"\\x68ostPath": {}}',
        "{'securityContext' : {}}",
    ],
)
def test_manifests_in_texts_of_custom_resources_are_read(text: str) -> None:
    assert "in a text" in refusal({**CUSTOM, "spec": {"podSpecPatch": text}})
    assert "in a text" in refusal({**CUSTOM, "spec": {"patches": ["a", text]}})
    check_manifest({**CUSTOM, "spec": {"args": [text]}}, CUSTOM, ())


def test_endless_nesting_is_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(5000):
        nested = {"a": nested}
    assert "nested deeper" in refusal(nested, {})
