"""The agent, or the way to the API server, dies at each step of a Kubernetes job.

It starts exactly once, its log is whole and its exit code right.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.e2e.harness.cluster import Pods, way_to_cluster
from tests.e2e.harness.home import Home
from tests.e2e.harness.jobs import until
from tests.e2e.harness.proxy import Proxy
from tests.e2e.test_kills import REPEAT, assert_ended_well, pair, phase
from tests.e2e.test_kubernetes_jobs import Tenant, tenant
from tests.e2e.test_tour import ok
from tests.infrastructure.state import KubernetesFacts

__all__ = ["tenant"]  # a fixture

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]

AGENT = ("launch-agent", "--queue", "default")


@pytest.fixture
async def proxy(tenant: Tenant) -> AsyncIterator[Proxy]:
    """The agent's way to the API server."""
    async with way_to_cluster(tenant.cluster, tenant.kubeconfig) as proxy:
        yield proxy


@pytest.fixture
def pods(tenant: Tenant, home: Home, proxy: Proxy, cluster_image: str) -> Pods:
    settings = tenant.settings()
    # Replicas adopt jobs where they share all backends.
    off = {"enabled": False}
    settings["runners"] |= {"local-container": off, "local-process": off}
    # The registry of the tests; an agent of a server on another machine asks none on loopback.
    settings["sources"] = {"private_hosts": ["127.0.0.1"]}
    home.configure(settings)
    return Pods(tenant.cluster, tenant.namespace, cluster_image, settings)


#: Where the agent dies → what is lost of a request, and how that request begins.
STEPS = {
    "before-create": ("request", "POST /api/v1/namespaces/{}/secrets"),
    "after-create": ("answer", "POST /api/v1/namespaces/{}/secrets"),
    "after-permit": ("request", "POST /apis/batch/v1/namespaces/{}/jobs"),
    "after-start": ("answer", "POST /apis/batch/v1/namespaces/{}/jobs"),
}


@REPEAT
@pytest.mark.parametrize("step", STEPS)
async def test_an_agent_killed_before_it_knows_that_the_job_runs(
    home: Home, pods: Pods, proxy: Proxy, tenant: Tenant, step: str, repetition: int
) -> None:
    lost, request = STEPS[step]
    markers = {request.format(tenant.namespace).encode()}
    if lost == "request":
        proxy.lost_requests = markers
    else:
        proxy.lost_answers = markers
    first = await home.start(*AGENT)
    item = await pods.submit(home)
    async with asyncio.timeout(60):
        await proxy.losses.get()
    await first.kill()
    await home.start(*AGENT)
    await phase(home, item, "STARTED")
    await pods.open_gate(item)
    await assert_ended_well(home, item, pods)


@REPEAT
@pytest.mark.parametrize("ends", ["after", "meanwhile"])
async def test_an_agent_killed_under_a_running_job(
    home: Home, pods: Pods, ends: str, repetition: int
) -> None:
    first = await home.start(*AGENT)
    item = await pods.submit(home)
    await phase(home, item, "STARTED")
    await first.kill()
    if ends == "meanwhile":
        await pods.open_gate(item)

        async def over() -> bool:
            return not await pods.running(item)

        await until(over, "the job to end by itself")
    await home.start(*AGENT)
    if ends == "after":
        await pods.open_gate(item)
    await assert_ended_well(home, item, pods)


@REPEAT
@pytest.mark.parametrize("state", ["kept", "lost"])
async def test_an_agent_killed_before_the_outcome_is_reported(
    home: Home,
    pods: Pods,
    kubernetes_cluster: KubernetesFacts,
    state: str,
    repetition: int,
) -> None:
    """The next one has its journal, or is another replica."""
    settings = pods.settings
    server = ("127.0.0.1", settings["control"]["port"])
    async with Proxy(server, kubernetes_cluster.host_address) as way:
        url = f"http://{way.address[0]}:{way.address[1]}"
        control = settings["control"] | {"external_url": url, "lost_contact": "120s"}
        home.configure(settings | {"control": control})
        await home.start("launch", "server")
        env = await pair(home) | {"LAUNCH_SERVER": url}
        await ok(home, "queue", "create", "default", "-r", "kubernetes")
        first = await home.start(*AGENT, **env)
        item = await pods.submit(home)
        await phase(home, item, "STARTED")
        way.lost_requests = {b"finishLaunchItem"}
        await pods.open_gate(item)
        async with asyncio.timeout(60):
            await way.losses.get()
        await first.kill()
        if state == "lost":
            env["LAUNCH_STATE_DIR"] = str(home.root / "replica")

            async def silent() -> bool:
                return bool((await home.item(item))["lostContact"])

            await until(silent, "the first one to be known as silent")
        await home.start(*AGENT, **env)
        await assert_ended_well(home, item, pods)

        async def removed() -> bool:
            return not await pods.left()

        await until(removed, "the job's objects to be removed")


@pytest.mark.parametrize("seconds", [20, pytest.param(600, marks=pytest.mark.long)])
async def test_jobs_do_not_notice_that_the_api_server_is_away(
    home: Home, pods: Pods, proxy: Proxy, seconds: int
) -> None:
    """One ends meanwhile, one later; the agent asks seldom, and makes up for everything."""
    agent = await home.start(*AGENT)
    ending, lasting = [await pods.submit(home) for _ in range(2)]
    for item in (ending, lasting):
        await phase(home, item, "STARTED")
    proxy.refusing = True
    proxy.cut_all()
    await pods.open_gate(ending)
    waiting = await pods.submit(home)
    await asyncio.sleep(seconds)
    assert proxy.refused <= 2 * seconds
    assert (await phase(home, waiting, "QUEUED"))["attempt"] == 1
    proxy.refusing = False
    await assert_ended_well(home, ending, pods)
    await pods.open_gate(lasting)
    await assert_ended_well(home, lasting, pods)
    await phase(home, waiting, "STARTED")
    await pods.open_gate(waiting)
    await assert_ended_well(home, waiting, pods)
    assert agent.process.returncode is None
