"""From a job's reference to what is built: each source, the layers, bad jobs."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.config.execution import CodeConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.spec import GitSource
from agent.model.work import Resolved, SourceTree
from agent.pipeline.build import build_request
from agent.pipeline.dependencies import Backend, Dependencies, Sources
from agent.pipeline.resolve import resolve
from agent.sources.artifact import ArtifactFetcher
from agent.sources.git.checkout import apply_patch
from agent.testing.builder_suite import RecordingLog
from tests.infrastructure.artifacts import ArtifactShelf
from tests.unit.pipeline.claims import claim

CODE = {"main.py": b"print('hello')\n", "jobs/hello/job.py": b"", "runtime.txt": b"python-3.12.1\n"}
PATCH = b"""--- a/main.py
+++ b/main.py
@@ -1 +1 @@
-print('hello')
+print('changed')
"""


@dataclass
class Repository:
    """A git source whose files are known."""

    files: dict[str, bytes]
    asked: list[GitSource] = field(default_factory=list)
    #: Path to target.
    links: dict[str, str] = field(default_factory=dict)

    async def fetch(self, source: GitSource, entity: str, into: Path, log: Any) -> SourceTree:
        self.asked.append(source)
        for name, data in self.files.items():
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        for name, outside in self.links.items():
            (into / name).unlink(missing_ok=True)
            (into / name).symlink_to(outside)
        return SourceTree(into, f"git+{source.url}@{source.ref}", source.ref)


@dataclass
class Scene:
    shelf: ArtifactShelf
    repository: Repository
    dependencies: Any
    folder: Path
    log: RecordingLog = field(default_factory=RecordingLog)

    def job(self, source_type: str, source: dict[str, Any], **more: Any) -> None:
        files = more.pop("files", {})
        raw = {"_version": "v0", "source_type": source_type, "source": source,
               "runtime": "3.11", **more}  # fmt: skip
        self.shelf.put("train", {"wandb-job.json": json.dumps(raw).encode(), **files})

    async def resolve(self, spec: dict[str, Any] | None = None, images: bool = True) -> Resolved:
        runner = SimpleNamespace(check=lambda *_: None)
        backend = Backend(runner, None, SimpleNamespace() if images else None, "http://plane")
        asked = claim({"job": "people/things/train:latest", **(spec or {})})
        return await resolve(asked, backend, self.dependencies, self.folder, self.log)


@pytest.fixture
def scene(tmp_path: Path) -> Any:
    shelf, repository = ArtifactShelf(), Repository(dict(CODE))
    with ThreadPoolExecutor(2) as threads:
        code = ArtifactFetcher(shelf, CodeConfig(), tmp_path / "cache", threads)
        dependencies = Dependencies(
            queue=None, backends={}, journal=None, builds=None, backend_state=None,
            control_plane_id="plane",
            sources=Sources(git=repository, apply_patch=apply_patch, artifact=code, jobs=shelf),
            attempts_dir=tmp_path, executor=threads,
        )  # fmt: skip
        folder = tmp_path / "attempt"
        folder.mkdir()
        yield Scene(shelf, repository, dependencies, folder)


GIT = {"git": {"remote": "https://host/r.git", "commit": "a" * 40},
       "entrypoint": ["python", "main.py"], "notebook": False}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "submodules", "lfs"),
    [
        ({}, True, False),
        ({"submodules": False}, False, False),
        ({"submodules": True, "lfs": True}, True, True),
    ],
)
async def test_a_git_job_says_what_else_is_fetched(
    scene: Scene, said: dict[str, bool], submodules: bool, lfs: bool
) -> None:
    scene.job("repo", {**GIT, "git": {**GIT["git"], **said}})
    await scene.resolve()
    (asked,) = scene.repository.asked
    assert (asked.submodules, asked.lfs) == (submodules, lfs)


async def test_a_git_job_is_fetched_at_its_commit_with_its_author_s_changes(scene: Scene) -> None:
    scene.job("repo", GIT, files={"requirements.frozen.txt": b"six==1.16.0", "diff.patch": PATCH})
    made = await scene.resolve()
    (asked,) = scene.repository.asked
    assert (asked.url, asked.ref, asked.submodules) == ("https://host/r.git", "a" * 40, True)
    assert made.command == ("python", "main.py")
    assert made.python == "3.11"
    assert (made.tree.root / "main.py").read_text() == "print('changed')\n"
    assert (made.tree.root / "requirements.frozen.txt").read_text() == "six==1.16.0"
    assert made.facts == {
        "source": f"git+https://host/r.git@{'a' * 40}", "commit": "a" * 40,
        "job": "people/things/train:v0",
    }  # fmt: skip
    assert json.loads(made.environment["WANDB_ARTIFACTS"]) == {
        "_wandb_job": "people/things/train:v0"
    }
    assert "applied diff.patch" in scene.log.text


async def test_a_patch_that_does_not_fit_is_named(scene: Scene) -> None:
    scene.job("repo", GIT, files={"diff.patch": PATCH.replace(b"hello", b"goodbye")})
    with pytest.raises(JobError, match=r"diff\.patch cannot be applied.*main\.py") as caught:
        await scene.resolve()
    assert caught.value.cause is Cause.SOURCE_INVALID


async def test_a_patch_that_leads_out_is_refused(scene: Scene) -> None:
    patch = b"--- /dev/null\n+++ b/../out\n@@ -0,0 +1 @@\n+x\n"
    scene.job("repo", GIT, files={"diff.patch": patch})
    with pytest.raises(JobError) as caught:
        await scene.resolve()
    assert caught.value.cause is Cause.SOURCE_INVALID
    assert not (scene.folder / "out").exists()


async def test_a_code_job_s_tree_comes_from_its_artifact(scene: Scene) -> None:
    code = scene.shelf.put("code-train", {**CODE, "requirements.frozen.txt": b"own"}, "code")
    source = {"artifact": f"wandb-artifact://_id/{code.id}", "entrypoint": ["python", "job.py"],
              "build_context": "jobs/hello", "base_image": "mine:1"}  # fmt: skip
    scene.job("artifact", source, files={"requirements.frozen.txt": b"six"})
    made = await scene.resolve()
    request = build_request(made)
    assert request.context == made.tree.root / "jobs/hello"
    assert (request.base_image, request.command) == ("mine:1", ("python", "job.py"))
    assert (made.tree.root / "requirements.frozen.txt").read_text() == "own"


async def test_an_image_job_is_its_image(scene: Scene) -> None:
    scene.job("image", {"image": "org/app:1", "args": ["--x"]}, runtime="")
    made = await scene.resolve()
    assert (made.image, made.command, made.args) == ("org/app:1", (), ("--x",))
    assert made.environment["WANDB_DOCKER"] == "org/app:1"
    assert (await scene.resolve({"overrides": {"args": ["--y"]}})).args == ("--y",)


async def test_the_submitter_s_words_win_and_the_job_s_fill_in(scene: Scene) -> None:
    scene.job("repo", {**GIT, "base_image": "job:1"})
    spec = {"overrides": {"entry_point": ["job.py", "--fast"], "args": ["1"]},
            "build": {"build_context": "jobs/hello"}}  # fmt: skip
    made = await scene.resolve(spec)
    assert made.command == ("python", "job.py", "--fast")
    assert (made.build_context, made.base_image, made.args) == ("jobs/hello", "job:1", ("1",))
    assert made.claim.layers["job"]["build"] == {"base_image": "job:1", "python": "3.11"}


async def test_known_faults_of_other_clients_are_mended_and_told(scene: Scene) -> None:
    broken = {**GIT, "entrypoint": ["pythonCPython 3.11", "main.py"]}
    scene.job("repo", broken, runtime="CPython 3.11.7")
    made = await scene.resolve()
    assert (made.command[0], made.python) == ("python3.11", "3.11")
    assert "is read as python3.11" in scene.log.text


async def test_without_a_runtime_the_source_decides(scene: Scene) -> None:
    scene.job("repo", GIT, runtime="")
    assert (await scene.resolve()).python == "3.12"
    assert "Python 3.12, from runtime.txt, line 1" in scene.log.text


async def test_a_file_that_names_no_version_is_passed_over(scene: Scene) -> None:
    scene.repository.files["jobs/hello/.python-version"] = b"my-env\n"
    scene.job("repo", {**GIT, "build_context": "jobs/hello", "entrypoint": ["job.py"]}, runtime="")
    assert (await scene.resolve()).python == "3.12"
    assert "jobs/hello/.python-version, line 1: 'my-env' is no version" in scene.log.text


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("Dockerfile.wandb", {}),
        ("Dockerfile", {"dockerfile": "Dockerfile"}),
        ("sub", {"build_context": "sub"}),
        ("main.py", {}),
        ("book.ipynb", {"entrypoint": ["python", "book.ipynb"]}),
    ],
)
async def test_a_link_out_of_the_source_is_refused_where_it_is_followed(
    scene: Scene, name: str, build: dict[str, object]
) -> None:
    scene.job("repo", {**GIT, **build})
    scene.repository.links[name] = "/etc/passwd" if name != "sub" else "/etc"
    with pytest.raises(JobError, match="out of the source") as caught:
        await scene.resolve()
    assert caught.value.cause is Cause.SOURCE_INVALID


async def test_a_notebook_is_converted_beside_itself(scene: Scene) -> None:
    cells = [{"cell_type": "code", "source": ["!ls\n", "print(1)"]}]
    scene.repository.files["nb.ipynb"] = json.dumps({"cells": cells}).encode()
    scene.repository.files["nb.py"] = b"other"
    scene.job("repo", {**GIT, "entrypoint": ["python", "nb.ipynb"], "notebook": True})
    made = await scene.resolve()
    assert made.command == ("python", "nb_notebook.py")
    assert (made.tree.root / "nb_notebook.py").read_text() == "pass\nprint(1)\n"
    assert (made.tree.root / "nb.py").read_bytes() == b"other"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        ({"build_context": "../x"}, "'../x' leads out of the source by `..`"),
        ({"build_context": "/etc"}, "'/etc' is an absolute path"),
        ({"build_context": "nowhere"}, "'nowhere' is not a folder of the source"),
        ({"dockerfile": "../Dockerfile"}, "Dockerfile '../Dockerfile'"),
        ({"dockerfile": "/etc/passwd"}, "Dockerfile '/etc/passwd'"),
        ({"dockerfile": "nope"}, "Dockerfile 'nope' does not exist"),
    ],
)
async def test_paths_out_of_the_source_are_named(
    scene: Scene, build: dict[str, Any], words: str
) -> None:
    scene.job("repo", GIT)
    with pytest.raises(JobError) as caught:
        await scene.resolve({"build": build})
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (["python", "../x.py"], "leads out of the source by `..`"),
        (["python", "/etc/x.py"], "is an absolute path"),
        (["python", "nope.py"], "'nope.py', which does not exist"),
    ],
)
async def test_entry_points_out_of_the_source_are_named(
    scene: Scene, entry: list[str], words: str
) -> None:
    scene.job("repo", GIT)
    with pytest.raises(JobError) as caught:
        await scene.resolve({"overrides": {"entry_point": entry}})
    assert words in caught.value.message


async def test_a_job_that_is_not_there_is_told_with_the_nearest(scene: Scene) -> None:
    scene.job("repo", GIT)
    with pytest.raises(JobError, match="no job `trian`") as caught:
        await scene.resolve({"job": "people/things/trian:latest"})
    assert caught.value.cause is Cause.SOURCE_NOT_FOUND
    assert "`train`" in (caught.value.hint or "")


async def test_a_job_file_that_is_none_and_an_artifact_of_another_type_are_named(
    scene: Scene,
) -> None:
    scene.shelf.put("broken", {"wandb-job.json": b"{"})
    with pytest.raises(JobError, match=r"wandb-job\.json is not JSON"):
        await scene.resolve({"job": "broken:latest"})
    scene.shelf.put("data", {"x": b""}, "dataset")
    with pytest.raises(JobError, match="of type 'dataset', not a job"):
        await scene.resolve({"job": "data:latest"})


async def test_nothing_waits_after_a_failed_resolve(scene: Scene) -> None:
    with pytest.raises(JobError):
        await scene.resolve({"job": "nope:latest"})
    assert asyncio.all_tasks() == {asyncio.current_task()}
