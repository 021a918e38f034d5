"""Resource arguments of `local-process`: what is accounted for, and variables."""

from typing import Any, Final

from agent.model.cause import Cause
from agent.model.errors import PolicyError

_ENVIRONMENT: Final = ("e", "env")
#: Read by the agent when it sets capacity aside, or by the pipeline.
_ELSEWHERE: Final = ("cpu", "cpus", "gpus", "m", "memory", "mounts", "secrets")


def check(arguments: dict[str, Any]) -> None:
    """Refuse what a process cannot be given.

    Raises:
        PolicyError: `POLICY_RESOURCE`, naming the argument.
    """
    for name in arguments:
        if _plain(name) not in (*_ENVIRONMENT, *_ELSEWHERE):
            message = f"Resource argument `{name}` means nothing for local-process."
            hint = f"It takes {', '.join((*_ENVIRONMENT, *_ELSEWHERE))}."
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
    variables(arguments)


def variables(arguments: dict[str, Any]) -> dict[str, str]:
    """Environment variables among the arguments: `NAME=value`, one or a list.

    Raises:
        PolicyError: `POLICY_RESOURCE`: something else.
    """
    found: dict[str, str] = {}
    for name, value in arguments.items():
        if _plain(name) not in _ENVIRONMENT:
            continue
        for pair in value if isinstance(value, list) else [value]:
            if not isinstance(pair, str) or "=" not in pair.lstrip("="):
                message = f"Resource argument `{name}`: {pair!r} is not `NAME=value`."
                hint = "Variables of the agent itself are not handed on."
                raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
            key, _, text = pair.partition("=")
            found[key] = text
    return found


def _plain(name: str) -> str:
    return name.strip("-").replace("_", "-").lower()
