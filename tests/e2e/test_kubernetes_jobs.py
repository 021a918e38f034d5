"""The same jobs as local processes, on Docker and on Kubernetes, through the installed commands."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import QUICK, quick
from tests.e2e.harness.home import Home
from tests.e2e.test_tour import git_settings, ok
from tests.infrastructure.process import run
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


@pytest.fixture
def namespace(kubernetes_cluster: KubernetesFacts) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:12]}"
    kubectl(kubernetes_cluster, "create", "namespace", name)
    yield name
    kubectl(kubernetes_cluster, "delete", "namespace", name, "--wait=false")


def kubectl(cluster: KubernetesFacts, *arguments: str) -> str:
    return run([cluster.kubectl, f"--kubeconfig={cluster.kubeconfig}", *arguments])


def cluster_settings(cluster: KubernetesFacts, namespace: str) -> dict[str, Any]:
    """Jobs on the cluster, which reach the embedded control plane by this machine's address."""
    control = quick()["control"] | {"also_listen": [cluster.host_address]}
    runner = {"enabled": True, "kubeconfig": cluster.kubeconfig, "namespace": namespace}
    return QUICK | {"control": control, "runners": {"kubernetes": runner}}


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
    home: Home, kubernetes_cluster: KubernetesFacts, namespace: str, registries: RegistryFacts,
    git_servers: GitFacts,
) -> Home:  # fmt: skip
    """One agent with all three backends."""
    settings = cluster_settings(kubernetes_cluster, namespace) | git_settings(git_servers)
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
