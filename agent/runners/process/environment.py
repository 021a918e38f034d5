"""Variables of a job: a few of the agent's, the job's own, the devices it was given."""

import os
import re
from collections.abc import Mapping
from typing import Final

from agent.config.execution import ProcessRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.ports.runner import RunRequest
from agent.runners.process.members import MARKER
from agent.runners.process.user import JobUser

_INHERITED: Final = ("PATH", "HOME", "LANG", "TMPDIR")
#: What is wrong with a text that is not passable.
NO_TEXT: Final = "It holds a zero byte or half a character."

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def environment_of(
    request: RunRequest,
    extra: Mapping[str, str],
    agents: Mapping[str, str],
    config: ProcessRunnerConfig,
    user: JobUser | None,
) -> dict[str, str]:
    """All variables of a job; `extra` are those of its resource arguments.

    Raises:
        PolicyError: `POLICY_SPEC`: a name or value that a shell cannot pass on.
    """
    inherited = (*_INHERITED, *config.environment)
    variables = {name: agents[name] for name in inherited if name in agents}
    if user is not None:
        variables |= user.environment
    variables |= {**extra, **request.environment}
    if request.image.environment is not None:
        folder = str(request.image.environment)
        path = variables.get("PATH")
        variables["PATH"] = f"{folder}/bin:{path}" if path else f"{folder}/bin"
        variables["VIRTUAL_ENV"] = folder
    devices = ",".join(request.allocation.gpus)
    # Empty hides all devices: what was not granted belongs to another job.
    variables["CUDA_VISIBLE_DEVICES"] = variables["NVIDIA_VISIBLE_DEVICES"] = devices
    variables[MARKER] = request.name
    _check(variables)
    return variables


def _check(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            message = f"The environment variable '{name}' has a name that a shell cannot pass on."
            hint = "Use letters, digits and underscores."
            raise PolicyError(Cause.POLICY_SPEC, message, hint=hint)
        if not is_passable(value):
            message = f"The value of the environment variable '{name}' is no text."
            raise PolicyError(Cause.POLICY_SPEC, message, hint=NO_TEXT)


def is_passable(text: str) -> bool:
    """Whether a program can be given this text: no zero byte, no half character."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
