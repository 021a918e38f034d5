"""How many requests a job costs the API server."""

import re

import pytest

from tests.e2e.harness.cluster import Pods, way_to_cluster
from tests.e2e.harness.home import Home
from tests.e2e.harness.jobs import until
from tests.e2e.test_kills import assert_ended_well, phase
from tests.e2e.test_kubernetes_jobs import Tenant, tenant

__all__ = ["tenant"]  # a fixture

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]

_JOBS = 3
_MOST = 6
#: The watches of all jobs, which the server ends from time to time; and whether it answers, which
#: is asked while nothing else is.
_SHARED = re.compile(r"watch=1|/version|launch-probe")


async def test_a_job_costs_six_requests_from_its_secret_to_its_removal(
    home: Home, tenant: Tenant, cluster_image: str
) -> None:
    settings = tenant.settings()
    settings["runners"] |= {"local-container": {"enabled": False}}
    settings["sources"] = {"private_hosts": ["127.0.0.1"]}  # the tests' registry
    async with way_to_cluster(tenant.cluster, tenant.kubeconfig) as way:
        home.configure(settings)
        pods = Pods(tenant.cluster, tenant.namespace, cluster_image, settings)
        await home.start("launch-agent", "--queue", "default")
        first = len(way.requests)
        items = [await pods.submit(home) for _ in range(_JOBS)]
        for item in items:
            await phase(home, item, "STARTED")
        for item in items:
            await pods.open_gate(item)
        for item in items:
            await assert_ended_well(home, item, pods)

        async def removed() -> bool:
            return not await pods.left()

        await until(removed, "the jobs' objects to be removed")
        requests = [line for line in way.requests[first:] if not _SHARED.search(line)]
    assert 2 * _JOBS < len(requests) <= _MOST * _JOBS, "\n".join(requests)
