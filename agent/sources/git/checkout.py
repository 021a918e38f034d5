"""Writes a commit's files from a mirror into a folder, applies patches, reads submodules.

A temporary index is read from the commit and checked out. The user's configuration is not used,
so no filter and no hook runs; git itself refuses paths with `..`, and never writes through a link.
"""

import os
import secrets
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.job.job_file import PATCH_NAME
from agent.model.redact import Redactor
from agent.ports.log import LogSink, write_line
from agent.sources.git.mirror import Mirror
from agent.sources.git.remote import Remote
from agent.system.child import Command, Tail, run
from agent.system.tasks import in_thread

_SUBMODULE_MODE: Final = "160000"
#: Lines of an error message of `git apply`.
_QUOTED: Final = 3


@dataclass(frozen=True, slots=True)
class Submodule:
    """A repository inside a repository."""

    path: str
    url: str
    commit: str


async def checkout(mirror: Mirror, commit: str, into: Path, threads: Executor) -> tuple[str, ...]:
    """Write all files of a commit into an empty folder; returns the paths of Git LFS pointers.

    Those are the files with the attribute `filter=lfs`.

    Raises:
        JobError: `DISK_FULL`, `SOURCE_INVALID`.
        CorruptMirrorError: objects are missing.
    """
    index = mirror.folder / f"index-{secrets.token_hex(6)}"
    where = {
        "GIT_DIR": str(mirror.repository),
        "GIT_INDEX_FILE": str(index),
        "GIT_WORK_TREE": str(into),
    }
    try:
        await mirror.program.local("read-tree", commit, **where)
        await mirror.program.local("checkout-index", "--all", "--quiet", **where)
        listed = await mirror.program.local("ls-files", "-z", "--", ":(attr:filter=lfs)", **where)
        return tuple(path for path in listed.split("\0") if path)
    finally:
        await in_thread(threads, lambda _: index.unlink(missing_ok=True))


async def submodules(mirror: Mirror, commit: str, remote: Remote) -> list[Submodule]:
    """The submodules of a commit, with absolute URLs.

    Raises:
        JobError: `SOURCE_INVALID`: one without a URL in `.gitmodules`.
    """
    git_dir = {"GIT_DIR": str(mirror.repository)}
    listed = await mirror.program.local("ls-tree", "-r", "-z", "--full-tree", commit, **git_dir)
    links = dict(_link(line) for line in listed.split("\0") if line.startswith(_SUBMODULE_MODE))
    if not links:
        return []
    blob = f"--blob={commit}:.gitmodules"
    described = await mirror.program.local("config", blob, "--null", "--list", **git_dir)
    urls = _urls(described)
    for path in links:
        if path not in urls:
            raise JobError(
                Cause.SOURCE_INVALID,
                f"Git: {remote.url}: submodule '{path}' has no URL in `.gitmodules`.",
            )
    return [
        Submodule(path, absolute_url(remote, urls[path]), commit) for path, commit in links.items()
    ]


async def apply_patch(root: Path, patch: Path, log: LogSink) -> None:
    """Apply the author's uncommitted changes (`diff.patch`) below `root`, wholly or not at all.

    git refuses paths with `..` or through a link.

    Raises:
        JobError: `SOURCE_INVALID`: it does not fit the commit.
    """
    errors = Tail()
    argv = ("git", "apply", "--whitespace=nowarn", "-p1", "--", str(patch))
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        # Else git would find a repository above, and skip files outside of it.
        "GIT_CEILING_DIRECTORIES": str(root.parent),
    }
    try:
        code = await run(Command(argv, env, root), errors, errors)
    except FileNotFoundError:
        message = "The program `git` is not installed on the agent's machine."
        raise JobError(Cause.INTERNAL, message, hint="Install it there.") from None
    if code != 0:
        lines = Redactor().text(errors.text).strip().splitlines()[:_QUOTED]
        message = f"The job's {PATCH_NAME} cannot be applied to its commit: {' '.join(lines)}"
        raise JobError(Cause.SOURCE_INVALID, message, hint="Create the job again.")
    await write_line(log, f"applied {PATCH_NAME}: the author's uncommitted changes")


def absolute_url(remote: Remote, url: str) -> str:
    """A submodule's URL; `./` and `../` are relative to its parent's."""
    if not url.startswith(("./", "../")):
        return url
    path = remote.path.rstrip("/")
    while url.startswith(("./", "../")):
        step, _, url = url.partition("/")
        path = path.rpartition("/")[0] if step == ".." else path
    # The path of the short form may have no further parent.
    joined = f"{path}/{url}" if path or remote.path.startswith("/") else url
    return replace(remote, path=joined).url


def _link(line: str) -> tuple[str, str]:
    """Path and commit of one line of `git ls-tree`."""
    head, _, path = line.partition("\t")
    return path, head.split(" ")[2]


def _urls(described: str) -> dict[str, str]:
    """Path to URL, from the listed keys and values of `.gitmodules`."""
    values: dict[tuple[str, str], str] = {}
    for entry in described.split("\0"):
        key, _, value = entry.partition("\n")
        name, _, last = key.removeprefix("submodule.").rpartition(".")
        values[name, last] = value
    return {
        path: values[name, "url"]
        for (name, key), path in values.items()
        if key == "path" and (name, "url") in values
    }
