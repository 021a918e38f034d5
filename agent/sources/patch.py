"""Uncommitted changes of a job's author (`diff.patch`), applied by `git apply`."""

import os
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.job.job_file import PATCH_NAME
from agent.model.redact import Redactor
from agent.ports.log import LogSink, write_line
from agent.sources.git.checkout import check_links
from agent.system.child import Command, Tail, run

_QUOTED: Final = 3


async def apply_patch(root: Path, patch: Path, threads: Executor, log: LogSink) -> None:
    """Apply a patch below `root`, wholly or not at all.

    git refuses paths with `..` or through a link; links that the patch creates are checked
    afterwards.

    Raises:
        JobError: `SOURCE_INVALID`: it does not fit the commit, or creates a link out of `root`.
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
    await check_links(PATCH_NAME, root, threads)
    await write_line(log, f"applied {PATCH_NAME}: the author's uncommitted changes")
