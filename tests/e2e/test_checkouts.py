"""A checkout of one's own as a Git job: what is taken along, and what is told instead."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.e2e.harness.promises import User, at_home, git_settings
from tests.infrastructure.state import GitFacts

pytestmark = pytest.mark.git_servers

PROCESSES = {"runners": {"local-container": {"enabled": False}}}
LINE = "submit --uri checkout/jobs/hello_world -J N -E 'python job.py' --queue default"


@pytest.fixture
async def user(home: Home, git_servers: GitFacts) -> AsyncIterator[User]:
    home.configure(quick(**PROCESSES, **git_settings(git_servers)))
    async with at_home(home) as user:
        yield user


@pytest.fixture
async def checkout(user: User, git_servers: GitFacts) -> Path:
    """A clone of the main branch, over ssh as its author would have it."""
    await git(user, git_servers, "clone", "--quiet", git_servers.ssh_url, "checkout")
    return user.home.root / "checkout"


async def git(user: User, servers: GitFacts, *words: str, **env: str) -> None:
    ssh = f"ssh -i {servers.ssh_key_file} -o UserKnownHostsFile={servers.ssh_known_hosts_file}"
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    done = await user.home.run("git", *identity, *words, GIT_SSH_COMMAND=ssh, **env)
    assert done.code == 0, done.err


async def test_a_clean_and_pushed_checkout_becomes_a_git_job(
    user: User, checkout: Path, git_servers: GitFacts
) -> None:
    done = await user.launch(f"{LINE} --source git --wait")
    assert f"becomes a Git job of {git_servers.ssh_url}" in done.err
    source = (await user.job("default/N:latest"))["job"]["source"]
    assert source["git"] == {"remote": git_servers.ssh_url, "commit": git_servers.commits["main"]}
    assert source["build_context"] == "jobs/hello_world"
    item, log = await user.run(f"{LINE} --source git")
    assert item["facts"]["commit"] == git_servers.commits["main"]
    assert "hello from main" in log


async def test_uncommitted_changes_go_along_on_request_and_are_applied(
    user: User, checkout: Path, git_servers: GitFacts
) -> None:
    job = checkout / "jobs/hello_world/job.py"
    job.write_text(job.read_text().replace("hello from main", "hello from my desk"))
    refused = await user.launch(f"{LINE} --source git")
    assert "becomes a code job, not a Git job: it has uncommitted changes" in refused.err
    assert (await user.job("default/N:latest"))["job"]["source_type"] == "artifact"
    item, log = await user.run(f"{LINE} --source git --diff")
    assert "hello from my desk" in log
    assert item["facts"]["commit"] == git_servers.commits["main"]
    stored = await user.job("default/N:latest")
    assert stored["job"]["source_type"] == "repo"
    setup = await user.launch(f"item logs {item['id']} --channel setup")
    assert "applied diff.patch" in setup.out
    _, again = await user.run("submit --job {E}/default/N:latest --queue default")
    assert "hello from my desk" in again


async def test_a_dry_run_shows_the_repository_and_its_changes(
    user: User, checkout: Path, git_servers: GitFacts
) -> None:
    commit = git_servers.commits["main"]
    clean = await user.launch(f"{LINE} --source git --dry-run")
    assert f"becomes a Git job of {git_servers.ssh_url}" in clean.err
    assert f"@{commit}" in clean.out
    (checkout / "jobs/hello_world/runtime.txt").write_text("3.12\n")
    await git(user, git_servers, "-C", "checkout", "add", ".")
    changed = await user.launch(f"{LINE} --source git --diff --dry-run --json -r local-container")
    assert changed.json()["facts"]["commit"] == commit
    assert (await user.fails(f"{LINE} --source git --dry-run -g v1")).code == 2
    listed = await user.json("job list -p default")
    assert (listed, await user.items()) == ([], [])


async def test_contents_of_git_lfs_are_no_changes(user: User, git_servers: GitFacts) -> None:
    lfs = ("-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.required=true")
    clone = (*lfs, "clone", "--quiet", "--branch", "with-lfs", git_servers.ssh_url, "checkout")
    await git(user, git_servers, *clone, GIT_SSL_CAINFO=git_servers.https_ca_file)
    folder = user.home.root / "checkout/jobs/weights"
    assert not (folder / "weights.bin").read_text().startswith("version")
    line = LINE.replace("hello_world", "weights")
    item, log = await user.run(f"{line} --source git --lfs")
    assert item["facts"]["commit"] == git_servers.commits["with-lfs"]
    assert "weights: 3000 numbers" in log
    job = folder / "job.py"
    job.write_text(job.read_text().replace("weights:", "my weights:"))
    _, log = await user.run(f"{line} --source git --lfs --diff")
    assert "my weights: 3000 numbers" in log


async def test_a_commit_that_is_not_pushed_makes_a_code_job(
    user: User, checkout: Path, git_servers: GitFacts
) -> None:
    job = checkout / "jobs/hello_world/job.py"
    job.write_text(job.read_text().replace("hello from main", "hello from a local commit"))
    await git(user, git_servers, "-C", "checkout", "commit", "--quiet", "-a", "-m", "local")
    done = await user.launch(f"{LINE} --source git")
    assert "is not at" in done.err
    assert "(push it)" in done.err
    _, log = await user.run("submit --job {E}/default/N:latest --queue default")
    assert "hello from a local commit" in log


async def test_a_notebook_of_a_repository_is_the_entry_point(
    user: User, checkout: Path, git_servers: GitFacts
) -> None:
    """Added as a change of the author's, since the repository has none."""
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "print('from the notebook')"]},
    ]
    book = checkout / "jobs/hello_world/book.ipynb"
    book.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    await git(user, git_servers, "-C", "checkout", "add", "--intent-to-add", ".")
    line = LINE.replace("python job.py", "python book.ipynb")
    item, log = await user.run(f"{line} --source git --diff")
    assert "from the notebook" in log
    assert (await user.job("default/N:latest"))["job"]["source"]["notebook"] is True
    setup = await user.launch(f"item logs {item['id']} --channel setup")
    assert "notebook converted" in setup.out
