"""The three jobs of the demo, and the repository that one of them comes from."""

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.cli.demo.daemon import demo_environment
from agent.jobs.author import Wishes
from agent.model.errors import LaunchError

#: Any image with a Python; the same that generated images start from.
DEFAULT_IMAGE: Final = "python:3.11-slim"
_IMAGE_JOB: Final = (
    """python -c 'import platform; print("Hello from a ready image:", platform.platform())'"""
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
    """One job and what people see of its source."""

    name: str
    source: str
    wishes: Wishes


async def demo_jobs(examples: Path, folder: Path, *, containers: bool) -> list[DemoJob]:
    """A code directory, a repository at a commit, and, for containers, a ready image."""
    repository = folder / "repository"
    commit = await _make_repository(examples / "train", repository)
    jobs = [
        DemoJob(
            "hello",
            "directory examples/hello",
            Wishes(
                uri=str(examples / "hello"),
                entry_point="python main.py",
                name="hello",
                project="demo",
            ),
        ),
        DemoJob(
            "train",
            f"git commit {commit[:12]}",
            Wishes(
                uri=f"file://{repository}",
                git_version=commit,
                entry_point="python train.py",
                name="train",
                project="demo",
            ),
        ),
    ]
    if containers:
        image = os.environ.get("DEMO_IMAGE") or DEFAULT_IMAGE
        wishes = Wishes(docker_image=image, entry_point=_IMAGE_JOB, name="image", project="demo")
        jobs.append(DemoJob("image", f"image {image}", wishes))
    return jobs


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
