"""The runner suite on a real Kubernetes cluster."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.testing.queueing_runner_suite import QueueingRunnerSuite
from tests.contract.kubernetes_driver import KubernetesDriver
from tests.contract.lossy_api import credentials_proxy, lossy_api
from tests.infrastructure.state import KubernetesFacts

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]


@pytest.fixture(scope="module")
def api_address(kubernetes_cluster: KubernetesFacts) -> Iterator[str]:
    with credentials_proxy(kubernetes_cluster) as address:
        yield address


class TestKubernetesRunner(QueueingRunnerSuite):
    @pytest.fixture
    async def driver(
        self,
        tmp_path: Path,
        kubernetes_cluster: KubernetesFacts,
        cluster_image: str,
        api_address: str,
    ) -> AsyncIterator[KubernetesDriver]:
        async with lossy_api(api_address) as api:
            driver = KubernetesDriver(tmp_path, kubernetes_cluster, cluster_image, api)
            await driver.prepare()
            yield driver
            await driver.clear()
