"""Secrets and mounts: named by the administrator, referred to by name from queue templates.

Only the queue's layer may name them; a job or a submitter may at most narrow the list.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from agent.config.execution import JobSecret, MountConfig
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, PolicyError
from agent.model.spec import Json
from agent.model.work import Claim
from agent.ports.runner import Mount

Offer = TypeVar("Offer")

SECRETS: Final = "secrets"
MOUNTS: Final = "mounts"


@dataclass(frozen=True, slots=True)
class Offered:
    """What a job gets of the administrator's offers."""

    environment: dict[str, str] = field(default_factory=dict, repr=False)
    mounts: tuple[Mount, ...] = ()


def named(claim: Claim, kind: str) -> tuple[str, ...]:
    """Names of one kind that the job gets.

    Raises:
        PolicyError: `POLICY_RESOURCE`: a name that the queue's template does not have, or
            something that is no list of names.
    """
    wanted = _names(claim.spec.args_for(claim.resource), kind)
    template = claim.layers.get("queue") or {}
    allowed = _names((template.get("resource_args") or {}).get(claim.resource) or {}, kind)
    for name in wanted:
        if name not in allowed:
            message = f"`{kind}`: '{name}' is not named by the template of queue {claim.queue}."
            hint = "Only a queue's template may name secrets and mounts."
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
    return wanted


def offered(
    claim: Claim,
    secrets: Mapping[str, JobSecret],
    mounts: Mapping[str, MountConfig],
    folder: Path,
) -> Offered:
    """Read what the job gets; secret files are written below `folder`. Blocks.

    Raises:
        PolicyError: as `named`, or a name that the administrator does not offer.
        JobError: `INTERNAL`: a secret cannot be read.
    """
    environment: dict[str, str] = {}
    places: list[Mount] = []
    for name in named(claim, SECRETS):
        secret = _known(secrets, name, SECRETS)
        value = _read(name, secret)
        if secret.as_env:
            environment[secret.as_env] = value
        if secret.as_file:
            places.append(Mount(_secret_file(folder, name, value), secret.as_file))
    for name in named(claim, MOUNTS):
        mount = _known(mounts, name, MOUNTS)
        places.append(Mount(mount.source, mount.target, mount.read_only))
    return Offered(environment, tuple(places))


def _read(name: str, secret: JobSecret) -> str:
    try:
        return secret.read().get_secret_value()
    except ConfigError as error:
        # Where it should be is the administrator's to know, not the submitter's.
        structlog.get_logger().error("a job's secret cannot be read", name=name, error=str(error))
        message = f"The secret '{name}' cannot be read on this agent."
        hint = f"See `{SECRETS}.{name}` in the agent's configuration; its log says more."
        raise JobError(Cause.INTERNAL, message, hint=hint) from error


def _names(arguments: Json, kind: str) -> tuple[str, ...]:
    value: Any = arguments.get(kind) or ()
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        message = f"Resource argument `{kind}` must be a list of names."
        raise PolicyError(Cause.POLICY_RESOURCE, message)
    return tuple(value)


def _known(offers: Mapping[str, Offer], name: str, kind: str) -> Offer:
    if name in offers:
        return offers[name]
    message = f"`{kind}`: the agent offers nothing called '{name}'."
    hint = f"The administrator names it under `{kind}:` in the agent's configuration."
    raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)


def _secret_file(folder: Path, name: str, value: str) -> Path:
    # The folder keeps other users of this machine out; the file itself must be readable
    # for whichever user the job has in its container.
    closed = folder / "secrets"
    closed.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = closed / name.replace("/", "_")
    path.unlink(missing_ok=True)
    path.write_text(value)
    path.chmod(0o444)
    return path
