"""The runner suite on a real Kubernetes cluster."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.testing.runner_suite import RunnerSuite
from tests.contract.kubernetes_driver import KubernetesDriver
from tests.infrastructure.state import KubernetesFacts

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]


class TestKubernetesRunner(RunnerSuite):
    @pytest.fixture
    async def driver(
        self, tmp_path: Path, kubernetes_cluster: KubernetesFacts, cluster_image: str
    ) -> AsyncIterator[KubernetesDriver]:
        driver = KubernetesDriver(tmp_path, kubernetes_cluster, cluster_image)
        await driver.prepare()
        yield driver
        await driver.clear()
