"""The three jobs of the demo, and the repository that one of them comes from."""

import asyncio
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.cli.demo.daemon import demo_environment
from agent.jobs.new_job import Kind, NewJob
from agent.model.errors import LaunchError

Json = dict[str, Any]

#: Any image with a Python; the same that generated images start from.
DEFAULT_IMAGE: Final = "python:3.11-slim"
_IMAGE_JOB: Final = (
    """python -c 'import os; print("Hello from a ready image:", os.environ["WANDB_CONFIG"])'"""
)
#: Equal files, author and date make an equal commit: the second demo builds nothing.
_SIGNATURE: Final = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (
        ("NAME", "launch demo"),
        ("EMAIL", "demo@localhost"),
        ("DATE", "2026-01-01T00:00:00Z"),
    )
}


@dataclass(frozen=True, slots=True)
class DemoJob:
    """One job, what people see of its source, and the parameters it is launched with."""

    source: str
    #: But for its entity, which is the daemon's.
    wanted: NewJob
    launches: tuple[Json, ...]
    #: For a job whose image has another command of its own.
    command: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The job's name."""
        return self.wanted.name or ""

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of its runs: `hello 1`, `hello 2`."""
        return tuple(f"{self.name} {number}" for number in range(1, len(self.launches) + 1))


async def demo_jobs(examples: Path, folder: Path, *, containers: bool) -> list[DemoJob]:
    """A code directory, a repository at a commit, and, for containers, a ready image."""
    repository = folder / "repository"
    commit = await _make_repository(examples / "train", repository)
    code, git = (
        _wanted("code", str(examples / "hello"), "hello", entry_point="python main.py"),
        _wanted(
            "git",
            f"file://{repository}",
            "train",
            entry_point="python train.py",
            git_version=commit,
        ),
    )
    jobs = [
        DemoJob("directory examples/hello", code, ({"steps": 3}, {"steps": 6})),
        DemoJob(f"git commit {commit[:12]}", git, ({"steps": 20}, {"steps": 40, "rate": 0.2})),
    ]
    if containers:
        image = os.environ.get("DEMO_IMAGE") or DEFAULT_IMAGE
        wanted = _wanted("image", image, "image")
        words = tuple(shlex.split(_IMAGE_JOB))
        jobs.append(DemoJob(f"image {image}", wanted, ({"name": "one"}, {"name": "two"}), words))
    return jobs


def _wanted(
    kind: Kind,
    path: str,
    name: str,
    *,
    entry_point: str | None = None,
    git_version: str | None = None,
) -> NewJob:
    return NewJob(
        kind=kind,
        path=path,
        entity="",
        project="demo",
        name=name,
        entry_point=entry_point,
        git_version=git_version,
    )


async def _make_repository(files: Path, repository: Path) -> str:
    """A repository with one commit of these files; gives the commit."""
    await asyncio.to_thread(_copy_afresh, files, repository)
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        ("commit", "--quiet", "--message=The example that the demo trains"),
    ):
        await _git(repository, *arguments)
    return (await _git(repository, "rev-parse", "HEAD")).strip()


def _copy_afresh(files: Path, repository: Path) -> None:
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(files, repository, ignore=shutil.ignore_patterns("__pycache__"))


async def _git(repository: Path, *arguments: str) -> str:
    environment = {
        **demo_environment(os.environ),
        **_SIGNATURE,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    try:
        process = await asyncio.create_subprocess_exec(
            *("git", "-C", str(repository), *arguments),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except FileNotFoundError:
        raise LaunchError("The demo needs git.", hint="Install it: apt-get install git.") from None
    output, _ = await process.communicate()
    if process.returncode != 0:
        message = f"git {arguments[0]} failed: {output.decode(errors='replace').strip()}"
        raise LaunchError(message)
    return output.decode()
