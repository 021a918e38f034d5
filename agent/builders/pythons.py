"""Finds the interpreter that a virtual environment is made of."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.builders.uv import uv_program
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.system.child import Command, Tail, run

_VERSION: Final = re.compile(r"\d+(\.\d+){1,2}")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that is installed on this machine."""

    path: Path
    #: What decides whether two environments are alike.
    identity: str


async def find_interpreter(wanted: str | None, env: Mapping[str, str]) -> Interpreter:
    """The agent's own interpreter where its version is the wanted one, else what uv finds.

    Nothing is downloaded: an interpreter from elsewhere is the administrator's to install.

    Raises:
        JobError: `SOURCE_INVALID` for a version that cannot be read, `BUILD_UNAVAILABLE`
            for one that is not installed.
    """
    own = ".".join(str(part) for part in sys.version_info[:3])
    if wanted is None or own == wanted or own.startswith(f"{wanted}."):
        return _interpreter(sys.executable, own)
    if not _VERSION.fullmatch(wanted):
        raise no_version(wanted)
    output, errors = Tail(), Tail()
    argv = (str(uv_program()), "python", "find", "--no-project", "--no-config", "--", wanted)
    if await run(Command(argv, env), output, errors) != 0:
        raise JobError(
            Cause.BUILD_UNAVAILABLE,
            f"Python {wanted} is not installed on the agent's machine; the agent runs {own}.",
            hint=f"Install Python {wanted} there, or submit with another `--runtime`.",
        )
    return _interpreter(output.text.strip(), wanted)


def no_version(text: str) -> JobError:
    """The error for a version of Python that cannot be read."""
    return JobError(
        Cause.SOURCE_INVALID,
        f"Python version '{text}' cannot be read.",
        hint="Write it as 3.11 or 3.11.4.",
    )


def _interpreter(path: str, version: str) -> Interpreter:
    return Interpreter(Path(path), f"{version} {os.path.realpath(path)}")
