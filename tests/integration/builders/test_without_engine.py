"""A buildkitd and a registry alone: no container engine is needed, nor asked."""

import os
import uuid

import pytest

from agent.builders.docker import DockerBuilder
from agent.config.execution import BuilderConfig
from agent.docker.client import Engine
from agent.model.errors import ConfigError, JobError
from agent.testing.builder_suite import RecordingLog

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.buildkit]


@pytest.fixture
def environment(tmp_path):
    """Every engine that a client could find is out of reach."""
    return {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/no-engine.sock"}


@pytest.fixture
def make(tmp_path, threads, registry, registries, buildkitd, environment):
    def made(cache="cache"):
        return DockerBuilder(
            BuilderConfig(
                buildkit=buildkitd.address,
                destination=f"{registries.address}/launch-test/alone",
            ),
            None,
            tmp_path / cache,
            threads=threads,
            environment=environment,
            registry=registry(environment),
        )

    return made


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "code").write_text(f"{uuid.uuid4()}\n")
    (folder / "Dockerfile").write_text('FROM scratch\nCOPY code /code\nENTRYPOINT ["/code", "x"]\n')
    return folder


async def test_plan_key_build_and_push_need_no_engine(
    make, request_for, job, registry, registries, environment
):
    request = request_for(job, dockerfile=job / "Dockerfile")
    first = make()
    assert (await first.preview(request)).own_dockerfile == "Dockerfile"
    key = await first.key(request)
    assert await first.find(key) is None
    log = RecordingLog()
    image = await first.build(request, key, log)
    assert image.reference.startswith(f"{registries.address}/launch-test/alone@sha256:")
    assert not image.needs_pull
    assert f"pushed to {registries.address}/launch-test/alone:{key[:40]}" in log.text
    other = make("other")
    assert await other.key(request) == key
    found = await other.find(key)
    assert (found.reference, found.reused) == (image.reference, True)
    assert await other.prune(1, 1) == await other.prune_cache(1, 1) == 0
    facts = await registry(environment).inspect(found.reference, "linux/amd64")
    assert facts.digest == image.reference.partition("@")[2]
    assert (facts.os, facts.architecture, facts.entrypoint) == ("linux", "amd64", ("/code", "x"))


async def test_what_is_missing_then_is_named(tmp_path, threads, environment, registry):
    with pytest.raises(ConfigError, match="need a buildkitd and a registry"):
        DockerBuilder(BuilderConfig(), None, tmp_path, threads=threads, environment=environment)
    config = BuilderConfig(destination="r.example/x")
    with pytest.raises(ConfigError, match=r"`builder\.buildkit`"):
        DockerBuilder(
            config, None, tmp_path, threads=threads, environment=environment,
            registry=registry(environment),
        )  # fmt: skip
    async with Engine(None, environment) as engine:
        made = DockerBuilder(
            BuilderConfig(), engine, tmp_path, threads=threads, environment=environment
        )
        with pytest.raises(JobError, match="does not answer"):
            await made.find("0" * 64)
