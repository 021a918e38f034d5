"""Uncommitted changes of a job's author (`diff.patch`), applied with git's own program."""

import os
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.job.job_file import PATCH_NAME
from agent.model.redact import Redactor
from agent.ports.log import LogSink, say
from agent.sources.git.checkout import refuse_leaving_links
from agent.system.child import Command, Tail, run

_QUOTED: Final = 3


async def apply_patch(root: Path, patch: Path, threads: Executor, log: LogSink) -> None:
    """Apply a patch below `root`; wholly or not at all.

    git refuses paths that climb or pass through a link; links that the patch makes are
    looked at afterwards.

    Raises:
        JobError: `SOURCE_INVALID`: it does not fit the commit, or leads out.
    """
    errors = Tail()
    argv = ("git", "apply", "--whitespace=nowarn", "-p1", "--", str(patch))
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        # Were a repository found above, git would leave out what lies outside of it.
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
    await refuse_leaving_links(PATCH_NAME, root, threads)
    await say(log, f"applied {PATCH_NAME}: the author's uncommitted changes")
