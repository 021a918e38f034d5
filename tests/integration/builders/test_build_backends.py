"""The same job over every store and builder: what is pushed, found, and cached where."""

import os
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.builders.docker import DockerBuilder
from agent.builders.image.references import NAMESPACE
from agent.builders.prebuilt import PrebuiltImages
from agent.config.execution import BuilderConfig
from agent.docker.client import Engine
from agent.docker.images import EngineImages
from agent.model.cause import Cause
from agent.model.errors import JobError, UnavailableError
from agent.testing.builder_suite import RecordingLog
from tests.infrastructure import containerd_engine, state

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.buildkit]


def port(address):
    return int(address.rpartition(":")[2])


@pytest.fixture(scope="module")
def second():
    """An engine with the containerd image store."""
    registry = state.load().registry
    ports = (port(registry.address), port(registry.private_address))
    folder = Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))
    try:
        with containerd_engine.running(folder, ports) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class BackendCase:
    """One build backend: the engine that runs images, and the builder's configuration."""

    host: str
    config: dict
    words: str
    caches: bool


@pytest.fixture
def ways(docker_engine, buildkitd, second):
    alone = {"buildkit": buildkitd.address}
    return {
        "classic": BackendCase(docker_engine.host, {}, "classic store", caches=False),
        "containerd": BackendCase(second.host, {}, "containerd store", caches=True),
        "buildkitd": BackendCase(docker_engine.host, alone, "buildkitd at unix://", caches=True),
    }


@pytest.fixture(params=["classic", "containerd", "buildkitd"])
def way(request, ways):
    return ways[request.param]


@pytest.fixture
async def on_way(tmp_path, threads, registry):
    """A builder on a backend, with the engine it leaves images in; all of it is removed."""
    engines = []

    def make(way, *, environment=None, cache="cache", **config):
        environment = environment or dict(os.environ)
        engine = Engine(way.host, environment)
        engines.append(engine)
        return DockerBuilder(
            BuilderConfig(**way.config, **config), engine, tmp_path / cache,
            threads=threads, environment=environment, registry=registry(environment),
        )  # fmt: skip

    yield make
    for engine in engines:
        await forget(engine, tmp_path.name)
        await engine.close()


@pytest.fixture
def on(on_way, way):
    return lambda **given: on_way(way, **given)


async def forget(engine, name):
    """Remove every trace of the test from an engine."""
    images = EngineImages(engine)
    for listed in await images.labelled(f"launch-test.builders={name}"):
        every = [*(listed["RepoTags"] or ()), *(listed["RepoDigests"] or ())]
        for reference in [each for each in every if "<none>" not in each] or [listed["Id"]]:
            await images.remove(reference)


@pytest.fixture
def once():
    """A word that no earlier run has left in a registry."""
    return uuid.uuid4().hex


def pushed(image, reference, *options):
    """Bring an image of the engine into a registry; the engine forgets that name."""
    for argv in (("tag", image, reference), ("push", "-q", reference), ("rmi", reference)):
        subprocess.run(["docker", *options, *argv], check=True, capture_output=True)


@pytest.fixture
def job(tmp_path, registries, login, once):
    """A job with its own Dockerfile, from an image that every builder can pull."""
    base = f"{registries.private_address}/launch-test/base:{once}"
    shell = state.load().docker.shell_image
    pushed(shell, base, "--config", login)
    made = tmp_path / "job"
    made.mkdir()
    (made / "code").write_text("first\n")
    (made / "Dockerfile").write_text(
        f"FROM {base}\nRUN echo {once} pack''ages > /packages\nCOPY code /code\n"
        'ENTRYPOINT ["cat", "/packages", "/code"]\n'
    )
    return made


@pytest.fixture
def wanted(job, request_for):
    return lambda **changes: request_for(job, dockerfile=job / "Dockerfile", **changes)


@pytest.fixture
def inside(login):
    return {**os.environ, "DOCKER_CONFIG": login}


def output(host, reference):
    argv = ["docker", "run", "--rm", "--network", "none", reference]
    environment = {**os.environ, "DOCKER_HOST": host}
    return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout


async def test_without_a_destination_the_image_is_in_the_engine(
    on, way, wanted, build, inside, once
):
    made = on(environment=inside)
    image, log = await build(made, wanted())
    assert not image.needs_pull
    assert way.words in image.built_by
    assert f"built by {image.built_by}" in log.text
    assert output(way.host, image.reference) == f"{once} packages\nfirst\n"
    again, log = await build(made, wanted())
    assert again.reused
    assert again.reference == image.reference
    assert log.data == b""


async def test_with_a_destination_it_is_found_by_key_from_anywhere(
    on, way, wanted, build, registries, inside, tmp_path, registry, once
):
    """Another agent, which has nothing but the registry, builds nothing and runs the same."""
    destination = f"{registries.private_address}/launch-test/{once}"
    made = on(destination=destination, environment=inside)
    image, _ = await build(made, wanted())
    key = await made.key(wanted())
    assert image.reference.startswith(f"{destination}@sha256:")
    digest = image.reference.partition("@")[2]
    assert await registry(inside).exists(f"{destination}:{key[:40]}") == digest
    await forget(made._images.engine, tmp_path.name)
    elsewhere = on(destination=destination, environment=inside, cache="other")
    found = await elsewhere.find(key)
    assert (found.reference, found.needs_pull, found.reused) == (image.reference, True, True)
    images = PrebuiltImages(elsewhere._images.engine, pull="missing", registry=registry(inside))
    await images.resolve(found.reference, RecordingLog())
    assert output(way.host, found.reference) == f"{once} packages\nfirst\n"
    noted = await elsewhere.find(key)
    assert not noted.needs_pull
    assert noted.reference == image.reference


async def test_a_change_of_code_takes_the_packages_from_the_registry_s_cache(
    on, way, wanted, build, job, registries, inside, once
):
    destination = f"{registries.private_address}/launch-test/{once}"
    made = on(destination=destination, environment=inside)
    _, log = await build(made, wanted())
    assert ("exporting cache to registry" in log.text) is way.caches
    (job / "code").write_text("second\n")
    image, log = await build(made, wanted())
    assert ("importing cache manifest from" in log.text) is way.caches
    assert f"\n{step_of_packages(log)} CACHED" in log.text
    assert image.reused is False


@pytest.mark.parametrize(
    ("first", "then"), [("buildkitd", "containerd"), ("containerd", "buildkitd")]
)
async def test_what_one_builder_left_in_the_registry_s_cache_serves_another(
    on_way, ways, first, then, wanted, build, job, registries, inside, once
):
    """They share no disk: the step of the packages comes from the registry, or runs again."""
    destination = f"{registries.private_address}/launch-test/{once}"
    await build(on_way(ways[first], destination=destination, environment=inside), wanted())
    (job / "code").write_text("second\n")
    made = on_way(ways[then], destination=destination, environment=inside, cache="other")
    image, log = await build(made, wanted())
    # A layer that is fetched, and no run.
    assert f"\n{step_of_packages(log)} extracting sha256:" in log.text
    assert image.reference.startswith(f"{destination}@sha256:")


def step_of_packages(log):
    return next(line for line in log.text.splitlines() if "RUN echo" in line).split(" ")[0]


async def test_entities_do_not_share_a_cache(on, way, wanted, build, registries, inside, job):
    destination = f"{registries.private_address}/launch-test/shared"
    made = on(destination=destination, environment=inside)
    used = []
    for entity in ("one", "two"):
        (job / "code").write_text(entity)
        _, log = await build(made, wanted(entity=entity))
        used += {word for word in log.text.split() if ":launch-cache-" in word}
    assert len({word.rstrip(":") for word in used}) == (2 if way.caches else 0)


async def test_the_login_leaves_no_trace_in_log_or_cache(
    on, wanted, build, registries, inside, tmp_path, once
):
    destination = f"{registries.private_address}/launch-test/{once}"
    made = on(destination=destination, environment=inside)
    _, log = await build(made, wanted())
    assert registries.password.encode() not in log.data
    kept = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert all(registries.password.encode() not in file.read_bytes() for file in kept)


async def test_a_buildkitd_that_does_not_answer_is_told_and_asked_again(
    builder, wanted, buildkitd, tmp_path, inside
):
    """The far end comes back under the same address: the failure is not remembered."""
    address = tmp_path / "b"
    made = builder(environment=inside, buildkit=f"unix://{address}")
    request = wanted()
    key = await made.key(request)
    with pytest.raises(JobError, match="does not answer") as caught:
        await made.build(request, key, RecordingLog())
    assert caught.value.cause is Cause.BUILD_UNAVAILABLE
    assert "builder.buildkit" in str(caught.value)
    with pytest.raises(UnavailableError, match="does not answer"):
        await made.check()
    address.symlink_to(buildkitd.address.removeprefix("unix://"))
    await made.check()
    image = await made.build(request, key, RecordingLog())
    assert image.name.startswith(NAMESPACE)
    address.unlink()
    with pytest.raises(JobError, match=f"buildkitd at unix://{address} does not answer") as caught:
        await made.build(request, key, RecordingLog())
    assert caught.value.cause is Cause.BUILD_UNAVAILABLE


async def test_a_buildkitd_behind_certificates_builds_for_those_who_have_one(
    on_way, docker_engine, buildkitd, wanted, build, inside, once
):
    certificates = {"buildkit_certs": buildkitd.client_certificates}
    far = {"buildkit": buildkitd.tls_address}
    known = BackendCase(docker_engine.host, {**far, **certificates}, "", caches=True)
    image, _ = await build(on_way(known, environment=inside), wanted())
    assert image.built_by == f"buildkitd at {buildkitd.tls_address}"
    assert output(docker_engine.host, image.reference) == f"{once} packages\nfirst\n"
    stranger = on_way(BackendCase(docker_engine.host, far, "", caches=True), environment=inside)
    with pytest.raises(JobError, match=f"{buildkitd.tls_address} does not answer") as caught:
        await stranger.build(wanted(), await stranger.key(wanted()), RecordingLog())
    assert caught.value.cause is Cause.BUILD_UNAVAILABLE


async def test_a_buildkitd_builds_code_from_the_dockerfile_that_we_generate(
    on_way, ways, tmp_path, request_for, build, registries, once
):
    """The base image comes from a registry: a `buildkitd` knows no image of the engine's."""
    base = f"{registries.address}/launch-test/python:{once}"
    pushed(state.load().docker.base_image, base)
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "main.py").write_text("import six\nprint('hello', six.__version__)\n")
    (folder / "requirements.txt").write_text("six==1.16.0\n")
    way = ways["buildkitd"]
    image, log = await build(on_way(way), request_for(folder, base_image=base))
    assert not image.needs_pull
    assert "with requirements.txt" in log.text
    assert output(way.host, image.reference) == "hello 1.16.0\n"
