"""The runner suite on every runner: containers, processes, and the scripted fake."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.testing.queueing_runner_suite import QueueingRunnerSuite
from agent.testing.runner_suite import RunnerSuite
from tests.contract.runner_drivers import DockerDriver, ProcessDriver, ScriptedDriver
from tests.infrastructure.state import DockerFacts


class TestScriptedRunner(QueueingRunnerSuite):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> ScriptedDriver:
        return ScriptedDriver(tmp_path)


class TestProcessRunner(RunnerSuite):
    @pytest.fixture
    async def driver(
        self, tmp_path: Path, threads: ThreadPoolExecutor
    ) -> AsyncIterator[ProcessDriver]:
        driver = ProcessDriver(tmp_path, threads)
        yield driver
        await driver.clear()


@pytest.mark.docker
class TestDockerRunner(RunnerSuite):
    @pytest.fixture
    async def driver(
        self, tmp_path: Path, threads: ThreadPoolExecutor, docker_engine: DockerFacts
    ) -> AsyncIterator[DockerDriver]:
        driver = DockerDriver(tmp_path, threads, docker_engine.host, docker_engine.shell_image)
        yield driver
        await driver.clear()
