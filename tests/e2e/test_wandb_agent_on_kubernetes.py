"""W&B's own `wandb launch-agent` and ours run the same item on a real cluster."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from yarl import URL

from tests.contract.wandb_client.environment import installed_client
from tests.e2e.harness.home import Home
from tests.e2e.harness.promises import User, at_home
from tests.e2e.test_kubernetes_jobs import Tenant
from tests.infrastructure.kubernetes_account import kubectl, make_account, write_kubeconfig
from tests.infrastructure.state import KubernetesFacts

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]

#: Of one run, of one agent, or of our dialect alone.
OWN = {
    "WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_LAUNCH_QUEUE_NAME", "WANDB_LAUNCH_TRACE_ID", "HOSTNAME",
}  # fmt: skip


PROGRAM = "env; echo ready; sleep 600"


@pytest.fixture
def tenant(kubernetes_cluster: KubernetesFacts, tmp_path: Path) -> Iterator[Tenant]:
    namespace = f"wandb-{uuid.uuid4().hex[:12]}"
    make_account(kubernetes_cluster, namespace)
    kubeconfig = write_kubeconfig(kubernetes_cluster, namespace, tmp_path / "kubeconfig")
    yield Tenant(kubernetes_cluster, namespace, kubeconfig)
    kubectl(kubernetes_cluster, "delete", "namespace", namespace, "--wait=false")


def template(tenant: Tenant) -> dict[str, Any]:
    container = {
        "name": "main",
        "env": [{"name": "COLOUR", "value": "red"}],
        "resources": {"limits": {"memory": "64Mi"}},
    }
    return {
        "metadata": {"namespace": tenant.namespace, "labels": {"team": "vision"}},
        "spec": {
            "template": {
                "metadata": {"labels": {"tier": "train"}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
            }
        },
    }


@asynccontextmanager
async def wandb_agent(user: User, tenant: Tenant, queue: str) -> AsyncIterator[None]:
    """Serves a queue with the same account of the cluster."""
    home = Home(user.home.root / "theirs")
    (home.root / ".kube").mkdir(parents=True)
    (home.root / ".kube" / "config").write_text(tenant.kubeconfig.read_text())
    # It asks for this package although only clusters of AWS need it.
    (home.root / "packages" / "awscli").mkdir(parents=True)
    (home.root / "packages" / "awscli" / "__init__.py").touch()
    config = home.root / "launch-config.yaml"
    config.write_text(
        yaml.safe_dump({"entity": user.entity, "queues": [queue], "builder": {"type": "noop"}})
    )
    python = str(await asyncio.to_thread(installed_client))
    # By the address that its jobs get.
    url = URL(user.url).with_host(tenant.cluster.host_address)
    agent = await home.start(
        python, "-m", "wandb", "launch-agent", "--config", str(config),
        ready=False,
        PYTHONPATH=str(home.root / "packages"),
        WANDB_BASE_URL=str(url),
        WANDB_API_KEY=user.key,
        WANDB_DIR=str(home.root),
    )  # fmt: skip
    try:
        yield
    except BaseException:
        print(agent.output())
        raise
    finally:
        await home.close()


@dataclass(frozen=True)
class Seen:
    """What is in the cluster of a running item, and what its program sees."""

    job_labels: dict[str, str]
    pod_labels: dict[str, str]
    container: dict[str, Any]
    environment: dict[str, str]


async def launched(user: User, tenant: Tenant, image: str, queue: str) -> Seen:
    """Submit an item that prints its environment and waits."""
    config = json.dumps({"overrides": {"run_config": {"lr": 1}, "args": ["-c", PROGRAM]}})
    words = ("-d", image, "-E", "sh", "-p", "vision", "--config", config, "--json")
    submitted = await user.home.launch("submit", "-q", queue, *words)
    assert submitted.code == 0, submitted.err
    item = submitted.json()["id"]
    while not (run := (await user.home.item(item))["runName"]):
        await asyncio.sleep(0.2)
    kube = partial(kubectl, tenant.cluster, "-n", tenant.namespace)
    find = ("get", "job", "-l", f"wandb.ai/run-id={run}", "-o", "json")
    while not (jobs := json.loads(await asyncio.to_thread(kube, *find))["items"]):
        await asyncio.sleep(0.2)
    (job,) = jobs
    of_job = ("-l", f"job-name={job['metadata']['name']}")
    await asyncio.to_thread(kube, "wait", "--for=condition=Ready", "pod", *of_job)
    log = ""
    while not log.endswith("ready"):
        log = await asyncio.to_thread(kube, "logs", "--tail=-1", *of_job)
    (pod,) = json.loads(kube("get", "pod", "-o", "json", *of_job))["items"]
    return Seen(
        job["metadata"]["labels"],
        pod["metadata"]["labels"],
        job["spec"]["template"]["spec"]["containers"][0],
        dict(line.split("=", 1) for line in log.splitlines() if "=" in line),
    )


async def test_both_agents_run_an_item_alike(
    home: Home, tenant: Tenant, cluster_image: str
) -> None:
    """Environment, labels, command and security context; the item is on two queues."""
    home.configure(tenant.settings())
    queue = json.dumps({"resource_args": {"kubernetes": template(tenant)}})
    async with at_home(home) as user:
        for command in (("update", "default"), ("create", "theirs")):
            done = await home.launch("queue", *command, "-r", "kubernetes", "--config", queue)
            assert done.code == 0, done.err
        async with wandb_agent(user, tenant, "theirs"):
            ours, theirs = await asyncio.gather(
                *(launched(user, tenant, cluster_image, name) for name in ("default", "theirs"))
            )
    labels = ("wandb.ai/monitor", "team", "tier")
    for seen, wanted in (
        (ours.job_labels, theirs.job_labels),
        (ours.pod_labels, theirs.pod_labels),
    ):
        assert {name: seen.get(name) for name in labels} == {
            name: wanted.get(name) for name in labels
        }
        assert {name for name in wanted if name.startswith("wandb.ai/")} <= set(seen)
    assert ours.job_labels["wandb.ai/agent"] == "desk"
    for key in ("name", "command", "args", "securityContext", "resources"):
        assert ours.container.get(key) == theirs.container.get(key), key
    different = {
        name: (ours.environment.get(name), value)
        for name, value in theirs.environment.items()
        if name not in OWN and ours.environment.get(name) != value
    }
    assert different == {}
    assert OWN - {"WANDB_DOCKER"} <= set(ours.environment)
