"""Resource arguments of `local-process`, and the variables of a job."""

import os
import re
from collections.abc import Mapping
from typing import Any, Final

from agent.config.execution import ProcessRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.model.spec import argument_name
from agent.ports.runner import RunRequest
from agent.runners.local import file_paths
from agent.runners.process.processes import MARKER

_ENVIRONMENT: Final = "env"
#: Counted by the agent's capacity, or read by the pipeline.
_ELSEWHERE: Final = ("cpus", "gpus", "memory", "mounts", "secrets")
_INHERITED: Final = ("PATH", "HOME", "LANG", "TMPDIR")
#: What is wrong with a text that is not passable.
NOT_TEXT_HINT: Final = "It contains a NUL byte or a lone surrogate."

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_arguments(arguments: dict[str, Any]) -> None:
    """Refuse what a process cannot be given.

    Raises:
        PolicyError: `POLICY_RESOURCE`, naming the argument.
    """
    for name in arguments:
        if argument_name(name) not in (_ENVIRONMENT, *_ELSEWHERE):
            message = f"Resource argument `{name}` is not known to local-process."
            hint = f"It takes {', '.join((_ENVIRONMENT, *_ELSEWHERE))}."
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
    variables(arguments)


def variables(arguments: dict[str, Any]) -> dict[str, str]:
    """Environment variables among the arguments: `NAME=value`, one or a list.

    Raises:
        PolicyError: `POLICY_RESOURCE`: something else.
    """
    found: dict[str, str] = {}
    for name, value in arguments.items():
        if argument_name(name) != _ENVIRONMENT:
            continue
        for pair in value if isinstance(value, list) else [value]:
            if not isinstance(pair, str) or "=" not in pair.lstrip("="):
                message = f"Resource argument `{name}`: {pair!r} is not `NAME=value`."
                hint = "The agent's own variables are not passed on."
                raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
            key, _, text = pair.partition("=")
            found[key] = text
    return found


def process_environment(
    request: RunRequest,
    extra: Mapping[str, str],
    inherited: Mapping[str, str],
    config: ProcessRunnerConfig,
    own: Mapping[str, str],
) -> dict[str, str]:
    """All variables of a job.

    `extra` are those of its resource arguments, `inherited` are the agent's, `own` those of the
    job's user.

    Raises:
        PolicyError: `POLICY_SPEC`: a name or value that a shell cannot pass on.
    """
    names = (*_INHERITED, *config.environment)
    variables = {name: inherited[name] for name in names if name in inherited}
    variables |= {**own, **extra, **request.environment}
    paths = file_paths(request)
    for name, target in request.file_variables.items():
        variables[name] = str(paths[target])
    if request.image.environment is not None:
        folder = str(request.image.environment)
        path = variables.get("PATH")
        variables["PATH"] = f"{folder}/bin:{path}" if path else f"{folder}/bin"
        variables["VIRTUAL_ENV"] = folder
    devices = ",".join(request.allocation.gpus)
    # Empty hides all devices: what was not allocated belongs to another job.
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
        if not is_valid_text(value):
            message = f"The value of the environment variable '{name}' is not text."
            raise PolicyError(Cause.POLICY_SPEC, message, hint=NOT_TEXT_HINT)


def is_valid_text(text: str) -> bool:
    """Whether a program can be given this text: no NUL byte, no lone surrogate."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
