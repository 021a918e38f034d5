"""The runner suite on every runner: containers, processes, and the scripted fake."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.testing.runner_suite import QueueingRunnerSuite, RunnerSuite
from tests.contract.runner_stages import DockerStage, ProcessStage, ScriptedStage
from tests.infrastructure.state import DockerFacts


class TestScriptedRunner(QueueingRunnerSuite):
    @pytest.fixture
    def stage(self, tmp_path: Path) -> ScriptedStage:
        return ScriptedStage(tmp_path)


class TestProcessRunner(RunnerSuite):
    @pytest.fixture
    async def stage(
        self, tmp_path: Path, threads: ThreadPoolExecutor
    ) -> AsyncIterator[ProcessStage]:
        stage = ProcessStage(tmp_path, threads)
        yield stage
        await stage.clear()


@pytest.mark.docker
class TestDockerRunner(RunnerSuite):
    @pytest.fixture
    async def stage(
        self, tmp_path: Path, threads: ThreadPoolExecutor, docker_engine: DockerFacts
    ) -> AsyncIterator[DockerStage]:
        stage = DockerStage(tmp_path, threads, docker_engine.host, docker_engine.shell_image)
        yield stage
        await stage.clear()
