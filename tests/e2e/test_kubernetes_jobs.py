"""The same jobs as local processes, on Docker and on Kubernetes, through the installed commands."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.runners.kubernetes.access import RIGHTS
from tests.e2e.conftest import QUICK, quick
from tests.e2e.harness.home import Home
from tests.e2e.test_tour import git_settings, ok
from tests.infrastructure.kubernetes_account import kubectl, make_account, write_kubeconfig
from tests.infrastructure.process import free_port
from tests.infrastructure.state import GitFacts, KubernetesFacts, RegistryFacts

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]

EVERYWHERE = ("local-process", "local-container", "kubernetes")
#: Says what it was given, asks the control plane for a sign of life, and fails on request.
PROGRAM = """
import json, os, sys, urllib.request
config = json.load(open(os.environ["LAUNCH_CONFIG_FILE"]))
print("arguments", sys.argv[1:], "parameters", config)
probe = urllib.request.urlopen(os.environ["WANDB_BASE_URL"] + "/healthz")
print("control plane", probe.status)
print("a line of standard error", file=sys.stderr)
sys.exit(config["exit"])
"""


@dataclass(frozen=True)
class Tenant:
    """A namespace, and the kubeconfig of an account with the documented rights in it."""

    cluster: KubernetesFacts
    namespace: str
    kubeconfig: Path

    def settings(self, **runner: Any) -> dict[str, Any]:
        """Jobs in this namespace; pods reach the embedded plane by this machine's address."""
        control = quick()["control"] | {"also_listen": [self.cluster.host_address]}
        kubernetes = {"enabled": True, "kubeconfig": str(self.kubeconfig), **runner}
        return QUICK | {"control": control, "runners": {"kubernetes": kubernetes}}


@pytest.fixture
def tenant(kubernetes_cluster: KubernetesFacts, tmp_path: Path) -> Iterator[Tenant]:
    namespace = f"e2e-{uuid.uuid4().hex[:12]}"
    make_account(kubernetes_cluster, namespace)
    kubeconfig = write_kubeconfig(kubernetes_cluster, namespace, tmp_path / "kubeconfig")
    yield Tenant(kubernetes_cluster, namespace, kubeconfig)
    kubectl(kubernetes_cluster, "delete", "namespace", namespace, "--wait=false")


async def launched(home: Home, resource: str, *flags: str) -> dict[str, Any]:
    """Submit to the queue, which is for this resource from now on; the ended item, its output."""
    await ok(home, "queue", "update", "default", "--resource", resource)
    done = await home.launch("submit", "--queue", "default", *flags, "--wait", "--json")
    assert done.out, done.err
    shown = await home.launch("item", "show", done.json()["id"], "--json")
    item: dict[str, Any] = shown.json()
    item["output"] = (await ok(home, "item", "logs", item["id"])).splitlines()
    return item


@pytest.fixture
async def everywhere(
    home: Home, tenant: Tenant, registries: RegistryFacts, git_servers: GitFacts
) -> Home:
    """One agent with all three backends."""
    settings = tenant.settings() | git_settings(git_servers)
    settings["runners"] |= {"local-process": {"enabled": True}}
    destination = f"{registries.address}/launch-test/{uuid.uuid4().hex}"
    home.configure(settings | {"builder": {"destination": destination}})
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    return home


def told(item: dict[str, Any]) -> tuple[object, ...]:
    """What a user is told about the end of an item."""
    return item["phase"], item["cause"], item["message"], item["exitCode"], item["output"]


async def test_code_runs_alike_everywhere(everywhere: Home) -> None:
    folder = everywhere.root / "job"
    folder.mkdir()
    (folder / "main.py").write_text(PROGRAM)
    create = (
        "job",
        "create",
        "-p",
        "P",
        "--name",
        "same",
        "code",
        "job",
        "-E",
        "python -u main.py",
    )
    await ok(everywhere, *create)
    for code in (0, 7):
        config = json.dumps({"overrides": {"run_config": {"exit": code}, "args": ["--x", "y z"]}})
        seen = [
            await launched(everywhere, each, "-p", "P", "--job", "same", "--config", config)
            for each in EVERYWHERE
        ]
        assert seen[0]["output"] == [
            f"arguments ['--x', 'y z'] parameters {{'exit': {code}}}",
            "control plane 200",
            "a line of standard error",
        ]
        assert [told(item) for item in seen[1:]] == [told(seen[0])] * 2


# ---- what keeps an agent from starting


async def refusal(home: Home, settings: dict[str, Any]) -> str:
    """What an agent says that cannot start."""
    home.configure(settings)
    done = await home.run("launch-agent", "--queue", "default", "--config", str(home.config))
    assert done.code == 2, done.out + done.err
    assert "Traceback" not in done.err
    return done.err


async def test_a_cluster_that_does_not_answer_is_named(home: Home, tenant: Tenant) -> None:
    port = free_port()
    moved = tenant.kubeconfig.read_text().replace(":6443", f":{port}")
    tenant.kubeconfig.write_text(moved)
    told = await refusal(home, tenant.settings())
    assert f":{port} does not answer" in told
    assert "kubectl get --raw /readyz" in told


async def test_a_wrong_context_and_a_missing_kubeconfig_are_named(
    home: Home, tenant: Tenant
) -> None:
    told = await refusal(home, tenant.settings(context="nowhere"))
    assert "`runners.kubernetes.context`: there is no context 'nowhere'" in told
    assert "jobs" in told
    tenant.kubeconfig.unlink()
    told = await refusal(home, tenant.settings())
    assert f"there is no kubeconfig at {tenant.kubeconfig}" in told


async def test_a_token_that_is_no_longer_accepted_is_told(home: Home, tenant: Tenant) -> None:
    kubectl(tenant.cluster, "-n", tenant.namespace, "delete", "serviceaccount", "launch-agent")
    told = await refusal(home, tenant.settings())
    assert "it does not accept the credentials: Unauthorized" in told


async def test_missing_rights_are_named_by_verb_and_resource(home: Home, tenant: Tenant) -> None:
    rules = json.dumps({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]})
    patch = ("patch", "role", "launch-agent", "--type=merge", "-p", rules)
    kubectl(tenant.cluster, "-n", tenant.namespace, *patch)
    told = await refusal(home, tenant.settings())
    assert f"lacks rights in the namespace '{tenant.namespace}'" in told
    for right in ("`create jobs.batch`", "`get pods --subresource=log`", "`watch events`"):
        assert right in told
    assert "`list pods`" not in told
    assert "deploy/kubernetes.yaml" in told


async def test_a_namespace_that_does_not_exist_is_named(home: Home, tenant: Tenant) -> None:
    absent = {"namespace": "nowhere", "kubeconfig": tenant.cluster.kubeconfig}
    told = await refusal(home, tenant.settings(**absent))
    assert "has no namespace 'nowhere'" in told
    assert "kubectl create namespace nowhere" in told


async def test_an_address_that_means_the_pod_is_refused(home: Home, tenant: Tenant) -> None:
    settings = tenant.settings()
    del settings["control"]["also_listen"]
    assert "`control.also_listen`" in await refusal(home, settings)


# ---- launch doctor


async def doctor(home: Home, code: int) -> dict[str, list[str]]:
    """Its findings about the cluster, by subject: `level: message`."""
    done = await home.launch("doctor", "--config", str(home.config), "--json")
    assert done.code == code, done.out + done.err
    found: dict[str, list[str]] = {}
    for each in done.json()["findings"]:
        found.setdefault(each["subject"], []).append(f"{each['level']}: {each['message']}")
    return found


async def test_the_doctor_looks_at_rights_registry_and_gpus(
    home: Home, tenant: Tenant, registries: RegistryFacts
) -> None:
    destination = {"destination": f"{registries.address}/launch-test/doctor"}
    home.configure(tenant.settings() | {"builder": destination})
    found = await doctor(home, 1)  # this machine's engine has known holes
    assert found["cluster"][0].startswith("ok: https://")
    assert found["rights in the cluster"] == [
        f"ok: The account has all {len(RIGHTS)} that it needs in '{tenant.namespace}'."
    ]
    assert found["registry from a node"] == [
        f"ok: A node reaches {registries.address} and may pull."
    ]
    assert found["GPUs of the cluster"][0].startswith("note: The account may not list nodes")
    left = kubectl(tenant.cluster, "-n", tenant.namespace, "get", "jobs", "-o", "name")
    assert left == ""


async def test_the_doctor_names_what_is_missing(
    home: Home, tenant: Tenant, registries: RegistryFacts
) -> None:
    destination = {"destination": f"{registries.private_address}/launch-test/doctor"}
    home.configure(tenant.settings() | {"builder": destination})
    found = await doctor(home, 1)
    (refused,) = found["registry from a node"]
    assert refused.startswith("problem: A node cannot pull from")
    rules = json.dumps([{"op": "remove", "path": "/rules/0/verbs/0"}])
    patch = ("patch", "role", "launch-agent", "--type=json", "-p", rules)
    kubectl(tenant.cluster, "-n", tenant.namespace, *patch)
    found = await doctor(home, 1)
    (missing,) = found["rights in the cluster"]
    assert missing.startswith("problem: The agent's account may not `create jobs.batch`")
    administrator = tenant.settings(kubeconfig=tenant.cluster.kubeconfig)
    home.configure(administrator)
    found = await doctor(home, 1)
    assert (
        "note: The account may read the Secrets of every namespace."
        in (found["rights in the cluster"])
    )
    assert found["GPUs of the cluster"] == ["ok: No node offers any."]
    assert "`builder.destination` is not set" in found["images for the cluster"][0]
