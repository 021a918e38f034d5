"""For all tests: facts about the services, refusal of skips, and no task left behind."""

import asyncio
import os
import uuid
from asyncio import runners
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coverage
import pytest
from hypothesis import HealthCheck, settings

from tests.infrastructure import buildkit, engine, state

ROOT = Path(__file__).parents[1]
#: marker -> how to bring the service up
SERVICES = {
    "docker": "docker",
    "postgres": "postgres",
    "registry": "registry",
    "git_servers": "git",
    "browser": "browser",
    "buildkit": "buildkit",
    "s3": "s3",
    "kubernetes": "kubernetes",
}
# No property depends on how fast the machine is.
settings.register_profile("launch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("launch")

REFUSE_SKIPS = os.environ.get("LAUNCH_TESTS_REFUSE_SKIPS") == "1"


@pytest.fixture(scope="session")
def services() -> state.Facts:
    """Facts recorded by `tests/services up`."""
    return state.load()


@pytest.fixture(scope="session")
def docker_engine(services: state.Facts) -> state.DockerFacts:
    assert services.docker is not None
    return services.docker


@pytest.fixture(scope="session")
def registries(services: state.Facts) -> state.RegistryFacts:
    assert services.registry is not None
    return services.registry


@pytest.fixture(scope="session")
def buildkitd(services: state.Facts) -> state.BuildkitFacts:
    assert services.buildkit is not None
    return services.buildkit


@pytest.fixture(scope="session")
def postgres_server(services: state.Facts) -> state.PostgresFacts:
    assert services.postgres is not None
    return services.postgres


@pytest.fixture(scope="session")
def git_servers(services: state.Facts) -> state.GitFacts:
    assert services.git is not None
    return services.git


@pytest.fixture(scope="session")
def s3_server(services: state.Facts) -> state.S3Facts:
    assert services.s3 is not None
    return services.s3


@pytest.fixture(scope="session")
def kubernetes_cluster(services: state.Facts) -> state.KubernetesFacts:
    assert services.kubernetes is not None
    return services.kubernetes


@pytest.fixture(scope="session")
def cluster_image(docker_engine: state.DockerFacts, registries: state.RegistryFacts) -> str:
    """An image with a shell in the tests' registry, from which pods pull."""
    name = f"{registries.address}/tests/shell:1"
    engine.docker(docker_engine.host, "tag", docker_engine.shell_image, name)
    engine.docker(docker_engine.host, "push", "--quiet", name)
    return name


@pytest.fixture(scope="session")
def own_image(docker_engine: state.DockerFacts, registries: state.RegistryFacts) -> str:
    """This tree's image, where pods pull from."""
    name = f"{registries.address}/tests/launch-agent:{uuid.uuid4().hex[:12]}"
    build = ("build", "--quiet", "--file", str(ROOT / "deploy/Dockerfile"), "--tag", name)
    engine.docker(docker_engine.host, *build, str(ROOT))
    engine.docker(docker_engine.host, "push", "--quiet", name)
    engine.docker(docker_engine.host, "image", "rm", name)
    return name


@pytest.fixture(scope="session")
def buildkit_image(docker_engine: state.DockerFacts, registries: state.RegistryFacts) -> str:
    """BuildKit's daemon for pods, in the tests' registry."""
    name = f"{registries.address}/tests/buildkit:1"
    buildkit.push_image(docker_engine.host, name, docker_engine.shell_image)
    return name


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """The thread pool of an agent, for blocking calls."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test whose service is down is skipped loudly; where skips are refused it fails."""
    facts = state.load()
    for item in items:
        for marker, service in SERVICES.items():
            missing = item.get_closest_marker(marker) and not getattr(facts, service, None)
            if missing:
                reason = f"{service} is not up: run `tests/services up {service}`"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where skips are refused, one skipped test fails the run."""
    # A process of pytest-xdist that takes long to end is killed, and its measurement with it.
    if measuring := coverage.Coverage.current():
        measuring.save()
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter else 0
    if REFUSE_SKIPS and skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fail a test that leaves a task running.

    The loop's runner cancels the remaining tasks when it closes, so they are seen there.
    """
    left: list[str] = []
    cancel_all = runners._cancel_all_tasks

    def record(loop: asyncio.AbstractEventLoop) -> None:
        left.extend(f"{task.get_name()}: {task.get_coro()}" for task in asyncio.all_tasks(loop))
        cancel_all(loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "_cancel_all_tasks", record)
        yield
    assert not left, f"tasks left running: {left}"
