"""Jobs as our command stores them, beside those that `wandb job create` 0.31.0 would store.

Ours go over real HTTP to a far end in memory; names, files, digests, aliases and metadata are
compared with what the client's own functions compute for the same input.
"""

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.config.execution import GitConfig
from agent.jobs.create import CreatedJob, JobStore, create_job
from agent.jobs.repository import Repositories
from agent.jobs.request import JobKind, JobRequest
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import ControlPlaneClient, Endpoint
from tests.contract.wandb_client.environment import WandbClient
from tests.contract.wandb_client.test_jobs import (
    CODE,
    CODE_CASES,
    GIT_CASES,
    b64,
    commit,
    git,
    remote_of,
    tree,
)
from tests.unit.jobs.plane import Plane, plane

FILES = {
    "main.py": "print(1)",
    "run.sh": "",
    "ünï.py": "",
    "train.py": "",
    "Dockerfile.wandb": "FROM scratch",
    "requirements.txt": "wandb>=0.13.8\nnumpy\n",
    "jobs/hello/job.py": "",
    "jobs/hello/Dockerfile": "FROM scratch",
    "jobs/hello/Dockerfile.wandb": "FROM scratch",
    "wandb/run/x": "left out",
}


@pytest.fixture
async def far() -> AsyncIterator[Plane]:
    async with plane() as made:
        made.first_id = CODE.rpartition("/")[2]
        yield made


@pytest.fixture
async def store(far: Plane, tmp_path: Path) -> AsyncIterator[JobStore]:
    client = ControlPlaneClient(Endpoint(far.url, "launch-" + "k" * 40))
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(2) as threads:
        async with client, Transfers() as transfers:
            environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
            config = GitConfig(protocols=("https", "ssh", "file"))
            repositories = Repositories(config, cache, environment, threads)
            yield JobStore(client, transfers, lambda: repositories)


async def made_by_us(store: JobStore, kind: JobKind, path: str, case: dict[str, Any]) -> CreatedJob:
    said = {**case}
    aliases = tuple(said.pop("aliases", ()))
    entry_point = said.pop("entrypoint", None)
    return await create_job(
        store,
        JobRequest(
            kind=kind, path=path, entity="e", project="p", aliases=aliases,
            entry_point=entry_point, **said,
        ),
    )  # fmt: skip


def assert_stored(far: Plane, collection: str, theirs: dict[str, Any]) -> None:
    (version,) = far.committed(collection)
    entries = {path: b64(data.decode()) for path, data in far.files(version).items()}
    assert entries == theirs["entries"]
    assert version.digest == theirs["digest"]


@pytest.mark.parametrize("case", CODE_CASES, ids=str)
async def test_code_jobs(
    wandb_client: WandbClient, store: JobStore, far: Plane, tmp_path: Path, case: dict[str, Any]
) -> None:
    source = tree(tmp_path / "source", FILES)
    theirs = wandb_client.call("create", job_type="code", path=str(source), **case)
    made = await made_by_us(store, "code", str(source), case)
    assert made.reference.name == theirs["name"]
    assert_stored(far, theirs["name"], theirs["job"])
    assert_stored(far, theirs["code"]["name"], theirs["code"])
    assert set(made.aliases) == set(theirs["aliases"])
    (version,) = far.committed(theirs["name"])
    assert json.loads(str(version.metadata)) == theirs["metadata"]


@pytest.mark.parametrize(
    "image",
    ["repo/name:tag", "repo/name", "localhost:5000/x/y", "img@sha256:" + "a1" * 32],
)
async def test_image_jobs(
    wandb_client: WandbClient, store: JobStore, far: Plane, image: str
) -> None:
    theirs = wandb_client.call("create", job_type="image", path=image, aliases=["mine"])
    made = await made_by_us(store, "image", image, {"aliases": ["mine"]})
    assert made.reference.name == theirs["name"]
    assert_stored(far, theirs["name"], theirs["job"])
    assert set(made.aliases) == set(theirs["aliases"])


@pytest.mark.parametrize("case", GIT_CASES, ids=str)
async def test_git_jobs(
    wandb_client: WandbClient, store: JobStore, far: Plane, tmp_path: Path, case: dict[str, Any]
) -> None:
    """Each side reaches the repository by the address that it can use; the rest is equal."""
    repository = tree(tmp_path / "r.git", {**FILES, "runtime.txt": "3.10\n"})
    git(repository, "init", "--quiet", "--initial-branch=main")
    head = commit(repository)
    remote = remote_of(repository)
    theirs = wandb_client.call("create", job_type="git", path=remote, name="own", **case)
    url = f"file://{repository}"
    made = await made_by_us(store, "git", url, {"name": "own", **case})
    assert made.commit == head
    (version,) = far.committed("own")
    texts = {path: data.decode() for path, data in far.files(version).items()}
    texts["wandb-job.json"] = texts["wandb-job.json"].replace(url, remote)
    assert texts == theirs["job"]["texts"]
    assert set(made.aliases) == set(theirs["aliases"])
