"""`launch render` for a queue of a real cluster."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness.home import Home
from tests.e2e.test_kubernetes_jobs import Tenant
from tests.infrastructure.kubernetes_account import kubectl, make_account, write_kubeconfig
from tests.infrastructure.state import KubernetesFacts

pytestmark = [pytest.mark.kubernetes]

POD = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "fast"}}}}}


@pytest.fixture
def tenant(kubernetes_cluster: KubernetesFacts, tmp_path: Path) -> Iterator[Tenant]:
    namespace = f"render-{uuid.uuid4().hex[:12]}"
    make_account(kubernetes_cluster, namespace)
    kubeconfig = write_kubeconfig(kubernetes_cluster, namespace, tmp_path / "kubeconfig")
    yield Tenant(kubernetes_cluster, namespace, kubeconfig)
    kubectl(kubernetes_cluster, "delete", "namespace", namespace, "--wait=false")


async def test_a_manifest_is_shown_field_by_field_and_checked_by_the_cluster(
    home: Home, tenant: Tenant
) -> None:
    home.configure(tenant.settings())
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    template = json.dumps({"resource_args": {"kubernetes": POD}})
    made = await home.launch("queue", "create", "jobs", "-r", "kubernetes", "--config", template)
    assert made.code == 0, made.err
    words = ("render", "-d", "org/app:1", "--queue", "jobs")
    asked = json.dumps({"kubernetes": {"spec": {"backoffLimit": 2}}})

    done = await home.launch(*words, "-R", asked, "--server-side", "--json")
    assert done.code == 0, done.err
    shown = done.json()
    assert shown["workload"]["metadata"]["namespace"] == tenant.namespace
    assert "managedFields" not in shown["workload"]["metadata"]
    layers = {each["path"]: each["layer"] for each in shown["settings"]}
    assert layers["manifest.spec.template.spec.nodeSelector.disk"] == "queue"
    assert layers["manifest.spec.backoffLimit"] == "submitter"
    assert layers["manifest.spec.podReplacementPolicy"] == "agent"
    assert layers["manifest.spec.template.spec.dnsPolicy"] == "cluster"
    assert kubectl(tenant.cluster, "-n", tenant.namespace, "get", "jobs", "-o", "name") == ""

    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
        "spec": {"selector": {"app": "db"}, "ports": [{"port": 5432}]},
    }  # fmt: skip
    account = f"--serviceaccount={tenant.namespace}:launch-agent"
    for grant in (
        ("role", "beside", "--verb=create", "--resource=services"),
        ("rolebinding", "beside", "--role=beside", account),
    ):
        kubectl(tenant.cluster, "-n", tenant.namespace, "create", *grant)
    beside = json.dumps({"additional_services": [{"config": service}]})
    for flags, filled_in in (((), False), (("--server-side",), True)):
        done = await home.launch(*words, "-c", beside, *flags, "--json")
        assert done.code == 0, done.err
        (made,) = done.json()["side_services"]
        assert ("clusterIPs" in made["spec"]) is filled_in
        assert made["metadata"]["labels"]["wandb.ai/created-by"] == "launch-agent"
    assert "# Side service (Service db)" in (await home.launch(*words, "-c", beside)).out
    found = kubectl(tenant.cluster, "-n", tenant.namespace, "get", "services", "-o", "name")
    assert found == ""

    misspelt = json.dumps({"kubernetes": {"spec": {"backofLimit": 2}}})
    told = await home.launch(*words, "-R", misspelt, "--server-side")
    assert told.code != 0
    assert 'unknown field "spec.backofLimit"' in told.err
    for refused, why in (
        ({"spec": {"template": {"spec": {"hostNetwork": True}}}}, "hostNetwork` may not be set"),
        (
            {"spec": {"template": {"spec": {"imagePullSecrets": [{"name": "theirs"}]}}}},
            "imagePullSecrets` may be set by the queue's template only",
        ),
    ):
        told = await home.launch(*words, "-R", json.dumps({"kubernetes": refused}))
        assert told.code != 0
        assert why in told.err
