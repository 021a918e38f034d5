"""Resource arguments of `local-container`: W&B's list of docker options, and what may be added.

Names are compared without leading dashes, in lower case, with `-` for `_`. Values are one
string or number; lists only where an option may be repeated.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.errors import ConfigError, PolicyError
from agent.model.spec import argument_name

#: Every submitter may use these: W&B's own list.
_ALWAYS_ALLOWED: Final = frozenset(
    {
        "command",
        "cpu-period",
        "cpu-quota",
        "cpu-shares",
        "cpus",
        "cpuset-cpus",
        "cpuset-mems",
        "env",
        "gpus",
        "memory",
        "memory-reservation",
        "memory-swap",
        "name",
        "pids-limit",
        "platform",
        "shm-size",
        "ulimit",
        "workdir",
    }
)

#: The administrator may allow these by name: each can reach beyond the container.
_IF_ADMINISTRATOR_ALLOWS: Final = frozenset(
    {
        "add-host",
        "cap-add",
        "cap-drop",
        "device",
        "dns",
        "group-add",
        "hostname",
        "ipc",
        "network",
        "pid",
        "privileged",
        "runtime",
        "security-opt",
        "tmpfs",
        "user",
        "volume",
    }
)

_REPEATABLE: Final = frozenset(
    {
        "add-host",
        "cap-add",
        "cap-drop",
        "device",
        "dns",
        "env",
        "group-add",
        "security-opt",
        "tmpfs",
        "ulimit",
        "volume",
    }
)

#: Read by the pipeline, not by the engine.
_READ_BY_PIPELINE: Final = frozenset({"mounts", "secrets"})


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options: canonical name → values in order."""

    values: dict[str, tuple[str, ...]]

    def one(self, name: str) -> str | None:
        """The value of an option that is given once."""
        found = self.values.get(name)
        return found[-1] if found else None

    def all(self, name: str) -> tuple[str, ...]:
        """All values of an option that may be repeated."""
        return self.values.get(name, ())


def allowance(names: Collection[str]) -> frozenset[str]:
    """The administrator's `allow`, checked; canonical names.

    Raises:
        ConfigError: a name that this runner does not know.
    """
    allowed = frozenset(argument_name(name) for name in names)
    for name in sorted(allowed - _ALWAYS_ALLOWED - _IF_ADMINISTRATOR_ALLOWS):
        message = f"`runners.local-container.allow`: there is no option '{name}'."
        raise ConfigError(message, hint=f"Known: {', '.join(sorted(_IF_ADMINISTRATOR_ALLOWS))}.")
    return allowed


def read_options(arguments: dict[str, Any], allowed: frozenset[str]) -> Options:
    """Check names and shapes.

    Raises:
        PolicyError: `POLICY_RESOURCE`, naming the argument as it was written.
    """
    values: dict[str, tuple[str, ...]] = {}
    for written, value in arguments.items():
        name = argument_name(written)
        if name in _READ_BY_PIPELINE:
            continue
        if name not in _ALWAYS_ALLOWED and name not in allowed:
            raise _not_allowed(written, name)
        values[name] = values.get(name, ()) + _texts(written, name, value)
    return Options(values)


def refused(written: str, what: str, hint: str | None = None) -> PolicyError:
    """The refusal of one argument."""
    return PolicyError(Cause.POLICY_RESOURCE, f"Resource argument `{written}`: {what}.", hint=hint)


def _not_allowed(written: str, name: str) -> PolicyError:
    if name in _IF_ADMINISTRATOR_ALLOWS:
        hint = f"An administrator can allow it: `runners.local-container.allow: [{name}]`."
        return refused(written, "it is not allowed on this agent", hint)
    return refused(written, "there is no such option for a job", "See docs/resources.md.")


def _texts(written: str, name: str, value: Any) -> tuple[str, ...]:
    if name == "privileged" and isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, list | tuple):
        if name not in _REPEATABLE or not value:
            raise refused(written, "only repeatable options take a list, and it must not be empty")
        return tuple(_text(written, each) for each in value)
    return (_text(written, value),)


def _text(written: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise refused(written, f"{value!r} is neither text nor a number")
    return str(value)
