"""Which jobs run without a build: code in a base image, where a build would add nothing."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.builders.docker import DockerBuilder
from agent.builders.noop import NoBuilder
from agent.config.execution import BuilderConfig, KubernetesRunnerConfig
from agent.docker.client import Engine
from agent.model.names import KUBERNETES
from agent.model.work import MountedCode, Resolved
from agent.pipeline.dependencies import Backend
from agent.pipeline.preview import KNOWN_AT_LAUNCH, preview
from agent.pipeline.resolve import resolve
from agent.runners.kubernetes.runner import KubernetesRunner
from tests.unit.pipeline.claims import claim
from tests.unit.pipeline.test_stored_jobs import GIT, Scene, scene

__all__ = ["scene"]

BASE = "registry.example/base:1"
ENTRY = ["sh", "main.sh"]


def code_job(scene: Scene, files: dict[str, bytes], **source: Any) -> None:
    code = scene.shelf.put("code-train", {"main.sh": b"echo hello\n", **files}, kind="code")
    given = {"artifact": f"wandb-artifact://_id/{code.id}", "entrypoint": ENTRY, "notebook": False}
    kept = {"files": source.pop("job_files", {})}
    scene.job("artifact", {**given, "base_image": BASE, **source}, **kept)


@pytest.fixture
def cluster(scene: Scene, tmp_path: Path) -> Any:
    """A cluster's backend; `None` for a builder is none that builds."""
    runner = KubernetesRunner("", KubernetesRunnerConfig(namespace="jobs", code_image="launch:1"))

    def make(*, builds: bool, mounts: bool = True) -> Backend:
        builder = DockerBuilder(
            BuilderConfig(), Engine(), tmp_path / "b", threads=scene.dependencies.executor,
            environment={},
        )  # fmt: skip
        made = builder if builds else NoBuilder("noop")
        images = SimpleNamespace()
        return Backend(runner, made, images, "http://p", takes_manifest=True, mounts_code=mounts)

    return make


async def resolved(scene: Scene, backend: Backend, spec: dict[str, Any] | None = None) -> Resolved:
    asked = claim({"job": "people/things/train:latest", **(spec or {})}, resource=KUBERNETES)
    return await resolve(asked, backend, scene.dependencies, scene.folder, scene.log)


@pytest.mark.parametrize("builds", [True, False])
async def test_code_that_needs_no_packages_is_mounted(
    scene: Scene, cluster: Any, builds: bool
) -> None:
    code_job(scene, {"jobs/a.sh": b""}, build_context="jobs")
    made = await resolved(scene, cluster(builds=builds), {"docker": {"user_id": 7}})
    assert made.image == BASE
    assert made.command == tuple(ENTRY)
    assert made.mounted_code is not None
    assert made.mounted_code == MountedCode(made.mounted_code.version, "jobs", 7)
    assert made.mounted_code.version.reference == "people/things/code-train:v0"
    assert f"nothing to build: the code is mounted into {BASE}" in scene.log.text
    assert ("the base image has to bring them" in scene.log.text) is not builds


async def test_the_digest_is_of_every_path_and_content(scene: Scene, cluster: Any) -> None:
    digests = set()
    for files in ({}, {"a": b"1"}, {"a": b"2"}, {"b": b"2"}, {".git/a": b""}):
        code_job(scene, files)
        scene = replace(scene, folder=scene.folder.with_name(f"attempt{len(digests)}"))
        scene.folder.mkdir()
        made = await resolved(scene, cluster(builds=False))
        assert made.mounted_code is not None
        digests.add(made.mounted_code.version.digest)
    assert len(digests) == 5


PACKAGES = {"requirements.txt": b"six\n"}
UNREAD = {"environment.yml": b"dependencies: [six]\n"}


@pytest.mark.parametrize("files", [PACKAGES, UNREAD])
async def test_code_that_names_packages_is_built_where_something_builds(
    scene: Scene, cluster: Any, files: dict[str, bytes]
) -> None:
    code_job(scene, files)
    built = await resolved(scene, cluster(builds=True))
    assert (built.image, built.mounted_code) == (None, None)
    scene.folder = scene.folder.with_name("again")
    scene.folder.mkdir()
    assert (await resolved(scene, cluster(builds=False))).image == BASE


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ({"Dockerfile": b"FROM x"}, {"dockerfile": "Dockerfile"}),
        ({"Dockerfile.wandb": b"FROM x"}, {}),
        ({}, {"base_image": None}),
        ({}, {"job_files": {"diff.patch": b""}}),
        ({"n.ipynb": b'{"cells": []}'}, {"entrypoint": ["python", "n.ipynb"], "notebook": True}),
    ],
)
async def test_what_only_a_build_can_do_is_built(
    scene: Scene, cluster: Any, files: dict[str, bytes], source: dict[str, Any]
) -> None:
    if "job_files" in source:
        patch = b"--- a/main.sh\n+++ b/main.sh\n@@ -1 +1 @@\n-echo hello\n+echo other\n"
        source = {"job_files": {"diff.patch": patch}}
    code_job(scene, files, **source)
    made = await resolved(scene, cluster(builds=False))
    assert (made.image, made.mounted_code) == (None, None)


async def test_repositories_and_agents_without_the_image_that_fetches_build(
    scene: Scene, cluster: Any
) -> None:
    code_job(scene, {})
    assert (await resolved(scene, cluster(builds=True, mounts=False))).image is None
    scene.folder = scene.folder.with_name("again")
    scene.folder.mkdir()
    scene.job("repo", {**GIT, "base_image": BASE})
    assert (await resolved(scene, cluster(builds=True))).image is None


async def test_python_is_whichever_the_base_image_has(
    scene: Scene, cluster: Any, tmp_path: Path
) -> None:
    code_job(scene, {"main.py": b""}, entrypoint=["python", "main.py"])
    made = await resolved(scene, cluster(builds=False), {"overrides": {"args": ["--x"]}})
    assert made.command[:2] == ("sh", "-c")
    assert made.command[-2:] == ("python", "main.py")
    assert made.args == ("--x",)
    shell = shutil.which("sh")
    assert shell is not None
    for name in ("python3", "python"):
        program = tmp_path / name
        program.write_text(f'#!{shell}\necho {name} "$@"\nexit 3\n')
        program.chmod(0o755)
        words = [shell, *made.command[1:], "a b"]
        done = subprocess.run(
            words, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (3, f"{name} main.py a b\n")


async def test_a_preview_shows_the_base_image_and_the_fetch(scene: Scene, cluster: Any) -> None:
    code_job(scene, {})
    asked = claim({"job": "people/things/train:latest"}, resource=KUBERNETES)
    shown = await preview(asked, cluster(builds=False), scene.dependencies, scene.folder, scene.log)
    assert shown.build is None
    pod = shown.workload["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == BASE
    (fetch,) = pod["initContainers"]
    assert (fetch["image"], fetch["args"][0]) == ("launch:1", "people/things/code-train:v0")
    assert KNOWN_AT_LAUNCH not in fetch["args"]
