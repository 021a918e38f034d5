from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.config.execution import GitConfig
from agent.jobs.create import JobStore
from agent.jobs.repository import Repositories
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import ControlPlaneClient, Endpoint
from tests.unit.jobs.plane import Plane, plane

KEY = "launch-" + "k" * 40


async def no_wait(_: float) -> None:
    """Between two tries, a test waits for nothing."""


@pytest.fixture
async def far() -> AsyncIterator[Plane]:
    async with plane() as made:
        yield made


@pytest.fixture
async def store(far: Plane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[JobStore]:
    cache: Path = tmp_path_factory.mktemp("cache")
    client = ControlPlaneClient(Endpoint(far.url, KEY), sleep=no_wait)
    git = GitConfig(protocols=("https", "ssh", "file"))
    with ThreadPoolExecutor(2) as threads:
        async with client, Transfers(sleep=no_wait) as transfers:
            environment = {"PATH": "/usr/bin:/bin", "HOME": str(cache)}
            repositories = Repositories(git, cache, environment, threads)
            yield JobStore(client, transfers, lambda: repositories)
