"""Drivers for tests of one runner alone."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contract.runner_drivers import DockerDriver, ProcessDriver
from tests.infrastructure.engine import Engine, docker
from tests.infrastructure.state import DockerFacts


@pytest.fixture
async def processes(tmp_path: Path, threads: ThreadPoolExecutor) -> AsyncIterator[ProcessDriver]:
    driver = ProcessDriver(tmp_path, threads)
    yield driver
    await driver.clear()


@pytest.fixture
async def containers(
    tmp_path: Path, threads: ThreadPoolExecutor, docker_engine: DockerFacts
) -> AsyncIterator[DockerDriver]:
    driver = DockerDriver(tmp_path, threads, docker_engine.host, docker_engine.shell_image)
    yield driver
    await driver.clear()


@contextmanager
def own_engine(facts: DockerFacts, **settings: Any) -> Iterator[Engine]:
    """An engine that may be stopped and killed: nobody else uses it."""
    base = Path(tempfile.mkdtemp())
    engine = Engine(base / "d", base / "r", base / "e.sock", isolated=True, settings=settings)
    try:
        engine.start()
        archive = base / "image.tar"
        docker(facts.host, "save", "--output", archive, facts.shell_image)
        docker(engine.host, "load", "--input", archive)
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def engine(docker_engine: DockerFacts) -> Iterator[Engine]:
    with own_engine(docker_engine) as engine:
        yield engine


@pytest.fixture(scope="module")
def live_engine(docker_engine: DockerFacts) -> Iterator[Engine]:
    """Its containers outlive it."""
    with own_engine(docker_engine, **{"live-restore": True}) as engine:
        yield engine


@contextmanager
def stage_on(
    engine: Engine, facts: DockerFacts, root: Path, threads: ThreadPoolExecutor
) -> Iterator[DockerDriver]:
    if not engine.daemon.pid():
        engine.start()
    yield DockerDriver(root, threads, engine.host, facts.shell_image)
    if not engine.daemon.pid():
        engine.start()


@pytest.fixture
async def own(
    engine: Engine, docker_engine: DockerFacts, tmp_path: Path, threads: ThreadPoolExecutor
) -> AsyncIterator[DockerDriver]:
    with stage_on(engine, docker_engine, tmp_path, threads) as driver:
        yield driver
    await driver.clear()


@pytest.fixture
async def live(
    live_engine: Engine, docker_engine: DockerFacts, tmp_path: Path, threads: ThreadPoolExecutor
) -> AsyncIterator[DockerDriver]:
    with stage_on(live_engine, docker_engine, tmp_path, threads) as driver:
        yield driver
    await driver.clear()
