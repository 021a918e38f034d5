"""The builders' conformance suite, against the docker builder and the virtualenv builder."""

import os
import textwrap

import pytest

from agent.builders.docker import DockerBuilder
from agent.builders.image.references import NAMESPACE
from agent.builders.virtualenv import VirtualenvBuilder
from agent.config.execution import BuilderConfig
from agent.docker.client import Engine
from agent.docker.images import EngineImages
from agent.ports.builder import BuildRequest
from agent.testing.builder_suite import BuilderSuite

#: A build backend that needs no network; `wheel` runs when the package is built.
BACKEND = """
import sys, time, zipfile
from pathlib import Path

INFO = {{
    "METADATA": "Metadata-Version: 2.1\\nName: localpkg\\nVersion: 1.0\\n",
    "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "RECORD": "",
}}

def build_wheel(directory, config_settings=None, metadata_directory=None):
    {action}
    name = "localpkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(Path(directory) / name, "w") as wheel:
        wheel.writestr("localpkg.py", "VALUE = 1")
        for file, text in INFO.items():
            wheel.writestr("localpkg-1.0.dist-info/" + file, text)
    return name
"""
PROJECT = """
[project]
name = "localpkg"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def package(folder, action):
    """A job with a package of its own, built without any index."""
    lib = folder / "lib"
    lib.mkdir(parents=True)
    (folder / "main.py").write_text("import localpkg; print(localpkg.VALUE)")
    (folder / "requirements.txt").write_text("./lib\n")
    (lib / "pyproject.toml").write_text(PROJECT)
    (lib / "backend.py").write_text(textwrap.dedent(BACKEND).format(action=action))
    return folder


def request(folder, dockerfile=None, label="conformance"):
    return BuildRequest(
        root=folder, context=folder, dockerfile=folder / dockerfile if dockerfile else None,
        base_image=None, python=None, command=("python", "main.py"), user_id=1000,
        title=f"launch-test/{label}", entity="launch-test", queue="q",
        labels={"launch-test.suite": "builders"},
    )  # fmt: skip


class TestVirtualenv(BuilderSuite):
    request_for = staticmethod(request)

    @pytest.fixture
    def builder(self, tmp_path, threads):
        return VirtualenvBuilder(
            BuilderConfig(), tmp_path / "cache", threads=threads, environment=dict(os.environ)
        )

    @pytest.fixture
    def project(self, tmp_path):
        return package(tmp_path / "project", "pass")

    @pytest.fixture
    def broken(self, tmp_path):
        return package(tmp_path / "broken", "sys.exit('boom')")

    @pytest.fixture
    def slow(self, tmp_path):
        """uv shows what a backend says only afterwards; it is its own line that tells."""
        marker = "started"
        made = package(tmp_path / marker, "time.sleep(120)")
        (made / "lib").rename(made / "started-lib")
        (made / "requirements.txt").write_text("./started-lib\n")
        return made


@pytest.mark.docker
class TestDocker(BuilderSuite):
    @staticmethod
    def request_for(folder):
        own = "Dockerfile" if (folder / "Dockerfile").exists() else None
        return request(folder, own)

    @pytest.fixture
    async def builder(self, tmp_path, threads, docker_engine):
        environment = dict(os.environ)
        async with Engine(docker_engine.host, environment) as engine:
            yield DockerBuilder(
                BuilderConfig(), engine, tmp_path / "cache", threads=threads,
                environment=environment,
            )  # fmt: skip
            images = EngineImages(engine)
            for listed in await images.labelled("launch-test.suite=builders"):
                for tag in listed["RepoTags"] or ():
                    if tag.startswith(f"{NAMESPACE}launch-test/"):
                        await images.remove(tag)

    @pytest.fixture
    def project(self, tmp_path):
        return package(tmp_path / "project", "pass")

    @pytest.fixture
    def broken(self, tmp_path, docker_engine):
        made = tmp_path / "broken"
        made.mkdir()
        (made / "Dockerfile").write_text(f"FROM {docker_engine.shell_image}\nRUN exit 3\n")
        return made

    @pytest.fixture
    def slow(self, tmp_path, docker_engine):
        made = tmp_path / "slow"
        made.mkdir()
        # The folder's own name makes the step new: a cached one would not run.
        say = f"echo {tmp_path.name}; echo now star''ted"
        text = f"FROM {docker_engine.shell_image}\nRUN {say}; sleep 120\n"
        (made / "Dockerfile").write_text(text)
        return made
