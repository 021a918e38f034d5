"""Whole jobs: what `wandb job create` 0.31.0 would store, and what our rules make of the same.

`OURS` is the composition that our command line makes of the pure rules; the last tests hold
the differences that are meant, and there are no others.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.model.job import digest, entry_point, image_reference, job_file, names, runtime
from agent.model.job.paths import below, candidates, inside
from agent.model.job.requirements import frozen_text
from tests.contract.wandb_client.environment import WandbClient

CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
CODE = "wandb-artifact://_id/QXJ0aWZhY3Q6MTM="


def b64(text: str) -> str:
    return digest.entry_digest([text.encode()])


def tree(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def ours(
    source: job_file.JobSource, python: str | None, requirements: str | None, **more: Any
) -> dict[str, Any]:
    stored = job_file.job_file(source, runtime=python, **more)
    texts = {
        "wandb-job.json": job_file.write_job_file(stored),
        "requirements.frozen.txt": frozen_text(requirements),
    }
    entries = {path: b64(text) for path, text in texts.items()}
    return {"digest": digest.manifest_digest(entries), "entries": entries, "texts": texts}


def assert_same_artifact(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert mine["texts"] == theirs["texts"]
    assert mine["entries"] == theirs["entries"]
    assert mine["digest"] == theirs["digest"]


CODE_CASES: list[dict[str, Any]] = [
    {"entrypoint": "python main.py"},
    {"entrypoint": "python main.py --lr 0.1 --name x", "name": "own-name"},
    {"entrypoint": "main.py", "aliases": ["stable"]},
    {"entrypoint": "python main.py", "runtime": "3.10"},
    {"entrypoint": "bash run.sh", "aliases": ["a", "latest"], "runtime": "3.12"},
    {"entrypoint": "python main.py", "dockerfile": "Dockerfile.wandb", "name": "n"},
    {"entrypoint": "python job.py", "build_context": "jobs/hello", "name": "n"},
    {
        "entrypoint": "python job.py",
        "build_context": "jobs/hello",
        "dockerfile": "Dockerfile",
        "base_image": "org/base:1",
        "services": {"proxy": "always", "cache": "never"},
    },
    {"entrypoint": "python ünï.py", "name": "n", "base_image": "org/base:1"},
]


@pytest.mark.parametrize("case", CODE_CASES, ids=str)
@pytest.mark.parametrize("requirements", [None, "wandb\n", "wandb>=0.13.8\r\nnumpy\n\n# end"])
def test_code_jobs_are_the_same(
    wandb_client: WandbClient, tmp_path: Path, case: dict[str, Any], requirements: str | None
):
    files = {"main.py": "print(1)", "jobs/hello/job.py": "", "wandb/run/x": "", ".git/HEAD": ""}
    tree(tmp_path, files | ({"requirements.txt": requirements} if requirements else {}))
    theirs = wandb_client.call("create", job_type="code", path=str(tmp_path), **case)

    words = entry_point.split(case["entrypoint"])
    source = job_file.JobArtifactSource(artifact=CODE, entrypoint=list(words), **build_keys(case))
    python = runtime.choose_runtime(case.get("runtime"), [], CURRENT).python
    mine = ours(source, python, requirements, services=case.get("services"))
    assert_same_artifact(mine, theirs["job"])

    own = case.get("name")
    assert theirs["name"] == (own or names.code_job_name(str(tmp_path), case["entrypoint"]))
    code_name = names.code_artifact_name(str(tmp_path), case["entrypoint"], own)
    assert theirs["code"]["name"] == code_name
    assert unique(theirs["aliases"]) == names.aliases_of(case.get("aliases", []))


def build_keys(case: Mapping[str, Any]) -> dict[str, Any]:
    return {key: case.get(key) for key in ("build_context", "dockerfile", "base_image")}


def unique(aliases: list[str]) -> list[str]:
    return list(dict.fromkeys(aliases))


def test_code_directories_have_the_same_digest(wandb_client: WandbClient, tmp_path: Path):
    kept = {"main.py": "print(1)", "b/data.txt": "x" * 1000, "b.txt": "", "ä/ü.py": "pass"}
    tree(tmp_path, kept | {"wandb/run/x": "left out", ".git/HEAD": "left out"})
    theirs = wandb_client.call(
        "create", job_type="code", path=str(tmp_path), entrypoint="python main.py"
    )
    entries = {path: b64(text) for path, text in kept.items()}
    assert entries == theirs["code"]["entries"]
    assert digest.manifest_digest(entries) == theirs["code"]["digest"]


@pytest.mark.parametrize(
    "image",
    [
        "repo/name:tag",
        "repo/name",
        "localhost:5000/x/y",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com/my-image:develop",
        "img@sha256:" + "a1" * 32,
    ],
)
@pytest.mark.parametrize("own", [None, "own"])
def test_image_jobs_are_the_same(wandb_client: WandbClient, image: str, own: str | None):
    theirs = wandb_client.call("create", job_type="image", path=image, name=own, aliases=["mine"])
    assert str(image_reference.parse_image(image)) == image
    assert_same_artifact(ours(job_file.JobImageSource(image=image), None, None), theirs["job"])
    named = names.image_job_name(image)
    assert theirs["name"] == (own or named.job)
    assert theirs["aliases"] == names.aliases_of(["mine"], named.alias)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = {"train.py": "print(1)", "jobs/hello/job.py": "print(2)", "requirements.txt": "wandb"}
    folder = tree(tmp_path / "repository.git", files)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{
            f"GIT_{who}_{what}": "x@y"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }
    command = ["git", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a commit")
    return git(folder, "rev-parse", "HEAD")


def remote_of(folder: Path) -> str:
    return f"git@host.example:{folder}"


def our_runtime(folder: Path, option: str | None = None, build_context: str = "") -> str:
    paths = [path for path in runtime.runtime_candidates(build_context) if (folder / path).exists()]
    found = [(path, (folder / path).read_text()) for path in paths]
    return runtime.choose_runtime(option, found, CURRENT).python


GIT_CASES: list[dict[str, Any]] = [
    {"entrypoint": "python train.py"},
    {"entrypoint": "python jobs/hello/job.py --x 1", "runtime": "3.9"},
    {
        "entrypoint": "python job.py",
        "build_context": "jobs/hello",
        "dockerfile": "Dockerfile.wandb",
    },
    {"entrypoint": "train.py", "base_image": "org/base:1", "aliases": ["stable"]},
]


@pytest.mark.parametrize("case", GIT_CASES, ids=str)
@pytest.mark.parametrize(
    "files",
    [
        {},
        {"runtime.txt": "3.10"},
        {".python-version": "3.8.9\n3.7.1\n"},
        {"runtime.txt": "3.9.1\n", ".python-version": "3.8"},
    ],
    ids=str,
)
def test_git_jobs_with_an_own_name_are_the_same(
    wandb_client: WandbClient, repository: Path, case: dict[str, Any], files: dict[str, str]
):
    tree(repository, files)
    head = commit(repository) if files else git(repository, "rev-parse", "HEAD")
    remote = remote_of(repository)
    theirs = wandb_client.call("create", job_type="git", path=remote, name="own", **case)

    words = entry_point.split(case["entrypoint"])
    source = job_file.JobRepoSource(
        git=job_file.Git(remote=remote, commit=head), entrypoint=list(words), **build_keys(case)
    )
    python = our_runtime(repository, case.get("runtime"))
    assert_same_artifact(ours(source, python, None), theirs["job"])
    assert theirs["name"] == "own"
    assert unique(theirs["aliases"]) == names.aliases_of(case.get("aliases", []))


@pytest.mark.parametrize("name", ["with space", "a/b", "x" * 129, "ürgh"])
def test_names_that_the_client_refuses_are_refused(
    wandb_client: WandbClient, tmp_path: Path, name: str
):
    theirs = wandb_client.call("create", job_type="image", path="a/b", name=name)
    assert theirs is None
    with pytest.raises(Exception, match="Did you mean") as refused:
        names.checked_name(name)
    assert names.safe_name(name) in str(refused.value)


def test_difference_a_file_as_code_path(wandb_client: WandbClient, tmp_path: Path):
    tree(tmp_path, {"code.py": ""})
    file = tmp_path / "code.py"
    arguments = {"job_type": "code", "entrypoint": "python main.py"}
    assert wandb_client.call("create", path=str(file), **arguments) is None

    words = entry_point.for_file(file.name)
    assert words == "python code.py"
    same = {"job_type": "code", "entrypoint": words}
    of_folder = wandb_client.call("create", path=str(tmp_path), **same)
    assert names.code_job_name(str(tmp_path), words) == of_folder["name"]


def test_difference_the_path_in_a_nameless_git_jobs_name(
    wandb_client: WandbClient, repository: Path
):
    remote = remote_of(repository)
    arguments = {"job_type": "git", "path": remote}
    theirs = wandb_client.call("create", entrypoint="python jobs/hello/job.py", **arguments)
    program = entry_point.program_of(("python", "jobs/hello/job.py"))
    assert theirs["name"] == names.git_job_name(remote, "")
    assert names.git_job_name(remote, program) == names.safe_name(
        f"{theirs['name']}jobs/hello/job.py"
    )


def test_difference_a_runtime_file_of_a_code_job(wandb_client: WandbClient, tmp_path: Path):
    tree(tmp_path, {"main.py": "", "runtime.txt": "python-3.10.4\n"})
    theirs = wandb_client.call(
        "create", job_type="code", path=str(tmp_path), entrypoint="python main.py"
    )
    read = job_file.read_job_file(theirs["job"]["texts"]["wandb-job.json"])
    assert read.job.runtime == CURRENT.rpartition(".")[0]
    assert our_runtime(tmp_path) == "3.10"


def test_difference_requirements_below_the_build_context(wandb_client: WandbClient, tmp_path: Path):
    tree(tmp_path, {"requirements.txt": "root", "jobs/a/requirements.txt": "below\n"})
    theirs = wandb_client.call(
        "create",
        job_type="code",
        path=str(tmp_path),
        entrypoint="python main.py",
        build_context="./jobs/a",
    )
    assert theirs["job"]["texts"]["requirements.frozen.txt"] == "root"
    paths = candidates(["requirements.txt"], inside("./jobs/a", "build context"))
    assert paths == [below("jobs/a", "requirements.txt"), "requirements.txt"]
    nearest = next(path for path in paths if (tmp_path / path).exists())
    assert frozen_text((tmp_path / nearest).read_text()) == "below"


def test_heroku_runtimes_become_usable(wandb_client: WandbClient, repository: Path):
    """The client stores `python-3.9`, from which no image can be built."""
    tree(repository, {"runtime.txt": "python-3.9.1"})
    commit(repository)
    theirs = wandb_client.call(
        "create", job_type="git", path=remote_of(repository), name="n", entrypoint="python x.py"
    )
    stored = theirs["job"]["texts"]["wandb-job.json"]
    assert '"runtime": "python-3.9"' in stored
    assert job_file.read_job_file(stored).job.runtime == "3.9" == our_runtime(repository)
