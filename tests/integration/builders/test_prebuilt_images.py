"""Ready images from real registries on the real engine."""

import json
import os
import subprocess

import pytest

from agent.builders.prebuilt import PrebuiltImages
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.address_policy import AddressPolicy
from agent.sources.url_access import UrlAccess
from agent.testing.builder_suite import RecordingLog

pytestmark = [pytest.mark.docker, pytest.mark.registry]


def docker(*arguments, **more):
    return subprocess.run(
        ["docker", *arguments], check=True, capture_output=True, text=True, **more
    )


@pytest.fixture
def published(docker_engine, registries, login):
    """Push the shell image under a name; take every local trace of the name away again."""
    names = []

    def publish(address, name, source=None):
        full = f"{address}/launch-test/{name}"
        docker("tag", source or docker_engine.shell_image, full)
        docker("--config", login, "push", full)
        docker("rmi", full)
        names.append(full)
        return full

    yield publish
    for name in names:
        repository = name.rpartition(":")[0]
        shown = "{{.Repository}}@{{.Digest}}"
        listed = docker("images", "--digests", "--format", shown, repository).stdout.split()
        subprocess.run(["docker", "rmi", name, *listed], check=False, capture_output=True)


@pytest.fixture
def images(engine, registry, tmp_path):
    def make(pull="missing", config=None):
        environment = {**os.environ, "DOCKER_CONFIG": config or str(tmp_path)}
        return PrebuiltImages(engine, pull=pull, registry=registry(environment))

    (tmp_path / "config.json").write_text(json.dumps({}))
    return make


async def refused(images, name):
    with pytest.raises(JobError) as caught:
        await images.resolve(name, RecordingLog())
    return caught.value


async def test_an_image_is_pulled_once_and_pinned_by_its_digest(published, images, registries):
    name = published(registries.address, "one:1")
    first = await images().resolve(name, RecordingLog())
    assert first.pinned_by == "digest"
    assert first.reference.startswith(f"{registries.address}/launch-test/one@sha256:")
    assert not first.reused
    log = RecordingLog()
    again = await images().resolve(name, log)
    assert again.reused
    assert again.reference == first.reference
    assert "pulling" not in log.text
    by_digest = await images().resolve(first.reference, RecordingLog())
    assert by_digest.reference == first.reference


async def test_a_tag_that_moves_later_changes_nothing(published, images, registries, docker_engine):
    name = published(registries.address, "moving:1")
    resolved = await images().resolve(name, RecordingLog())
    before = docker("image", "inspect", "-f", "{{.Id}}", name).stdout
    docker("tag", docker_engine.foreign_image, name)
    assert docker("image", "inspect", "-f", "{{.Id}}", resolved.reference).stdout == before


async def test_a_local_image_without_a_registry_is_pinned_by_its_id(images, docker_engine):
    found = await images().resolve(docker_engine.shell_image, RecordingLog())
    assert found.pinned_by in {"image-id", "digest"}
    assert found.reused


async def test_a_private_registry_takes_the_machine_s_login(published, images, registries, login):
    name = published(registries.private_address, "private:1")
    error = await refused(images(), name)
    assert error.cause is Cause.IMAGE_AUTH
    assert "docker login" in str(error)
    found = await images(config=login).resolve(name, RecordingLog())
    assert found.pinned_by == "digest"


async def test_an_image_that_does_not_exist_is_told(images, registries):
    error = await refused(images(), f"{registries.address}/launch-test/nothing:9")
    assert error.cause is Cause.IMAGE_NOT_FOUND
    assert "nothing:9" in error.message


async def test_an_image_for_another_architecture_names_both(images, docker_engine):
    error = await refused(images(), docker_engine.foreign_image)
    assert error.cause is Cause.IMAGE_PLATFORM
    theirs = docker("image", "inspect", "-f", "{{.Architecture}}", docker_engine.foreign_image)
    ours = docker("version", "-f", "{{.Server.Arch}}")
    assert theirs.stdout.strip() in error.message
    assert ours.stdout.strip() in error.message


async def test_a_registry_that_is_not_there_is_told(images):
    error = await refused(images(), "127.0.0.1:1/launch-test/x:1")
    assert error.cause is Cause.IMAGE_UNAVAILABLE
    assert "127.0.0.1:1" in error.message


async def test_a_private_image_that_the_engine_has_runs_for_those_who_may_pull_it(
    images, published, registries, login
):
    """Its registry is asked with this agent's login, also where nothing needs to be pulled."""
    name = published(registries.private_address, "verified:1")
    await images(config=login).resolve(name, RecordingLog())
    assert (await images("missing").resolve(name, RecordingLog())).reused
    error = await refused(images("always-verify"), name)
    assert error.cause is Cause.IMAGE_AUTH
    known = images("always-verify", login)
    image = await known.resolve(name, RecordingLog())
    assert image.reused
    assert (await known.resolve(image.reference, RecordingLog())).reused
    await refused(images("always-verify"), image.reference)
    gone = name.replace(":1", ":none")
    docker("tag", name, gone)
    error = await refused(known, gone)
    docker("rmi", gone)
    assert error.cause is Cause.IMAGE_NOT_FOUND


async def test_no_image_is_found_by_the_beginning_of_its_id(docker_engine, images):
    found = docker("inspect", "--format", "{{.Id}}", docker_engine.shell_image).stdout.strip()
    for name in (found, found[:19], f"docker.io/library/{found[:12]}"):
        assert (await refused(images(), name)).cause is Cause.SOURCE_INVALID


async def test_a_registry_inside_is_not_asked(registry, engine, threads):
    urls = UrlAccess(AddressPolicy((), embedded=False), threads)
    images = PrebuiltImages(engine, pull="missing", registry=registry({}), urls=urls)
    for host in ("127.0.0.1:1", "localhost:5000", "169.254.169.254", "10.0.0.1", "[::1]:5000"):
        with pytest.raises(PolicyError):
            await images.resolve(f"{host}/a", RecordingLog())
