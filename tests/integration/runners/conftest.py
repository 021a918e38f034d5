"""Stages for tests of one runner alone."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.contract.runner_stages import DockerStage, ProcessStage
from tests.infrastructure.state import DockerFacts


@pytest.fixture
async def processes(tmp_path: Path, threads: ThreadPoolExecutor) -> AsyncIterator[ProcessStage]:
    stage = ProcessStage(tmp_path, threads)
    yield stage
    await stage.clear()


@pytest.fixture
async def containers(
    tmp_path: Path, threads: ThreadPoolExecutor, docker_engine: DockerFacts
) -> AsyncIterator[DockerStage]:
    stage = DockerStage(tmp_path, threads, docker_engine.host, docker_engine.shell_image)
    yield stage
    await stage.clear()
