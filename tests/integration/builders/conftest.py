import base64
import json
import os

import pytest

from agent.builders.docker import DockerBuilder
from agent.config.execution import BuilderConfig
from agent.docker.client import Engine
from agent.docker.images import EngineImages
from agent.ports.builder import BuildRequest
from agent.testing.builder_suite import RecordingLog

LABEL = "launch-test.builders"


@pytest.fixture
async def engine(docker_engine, tmp_path):
    """The engine; images of the test go away with it."""
    async with Engine(docker_engine.host, dict(os.environ)) as made:
        yield made
        images = EngineImages(made)
        for listed in await images.labelled(f"{LABEL}={tmp_path.name}"):
            for tag in listed["RepoTags"] or [listed["Id"]]:
                await images.remove(tag)


@pytest.fixture
def job(tmp_path):
    made = tmp_path / "job"
    made.mkdir()
    (made / "main.py").write_text("import six\nprint('hello', six.__version__)\n")
    (made / "requirements.txt").write_text("six==1.16.0\n")
    return made


@pytest.fixture
def request_for(tmp_path):
    def make(folder, **changes):
        facts = {
            "root": folder, "context": folder, "dockerfile": None, "base_image": None,
            "python": None, "command": ("python", "main.py"), "user_id": 1000,
            "title": "launch-test/p/job", "entity": "launch-test", "queue": "launch-test/q",
            "labels": {LABEL: tmp_path.name}, **changes,
        }  # fmt: skip
        return BuildRequest(**facts)

    return make


@pytest.fixture
def builder(engine, threads, tmp_path, registry):
    def make(*, environment=None, **config):
        environment = dict(os.environ) if environment is None else environment
        return DockerBuilder(
            BuilderConfig(**config), engine, tmp_path / "cache",
            threads=threads, environment=environment, registry=registry(environment),
        )  # fmt: skip

    return make


@pytest.fixture
def build():
    async def run(builder, request):
        log = RecordingLog()
        key = await builder.key(request)
        found = await builder.find(key)
        return found or await builder.build(request, key, log), log

    return run


@pytest.fixture
def login(registries, tmp_path):
    """A folder for DOCKER_CONFIG with the login of the private registry."""
    pair = f"{registries.username}:{registries.password}".encode()
    entry = {"auth": base64.b64encode(pair).decode()}
    folder = tmp_path / "docker-config"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"auths": {registries.private_address: entry}}))
    return str(folder)
