"""What the agent injects into a job: variables, secrets, mounts, and its parameters as a file.

Secrets and mounts are defined in the agent's configuration and referred to by name from queue
templates. Only the queue's layer may name them; a job or a submitter may at most narrow the
list. The configuration lists the queues that get each.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog

from agent.config.execution import ForQueues, JobSecret, MountConfig
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, PolicyError
from agent.model.redact import is_telling_name
from agent.model.spec import Json
from agent.model.work import Claim

#: Longest value of one variable, in characters; longer JSON is split into numbered ones.
MAX_VARIABLE_CHARS: Final = 32670
#: W&B's field of a launch spec: the submitter's key for this run.
_OWN_KEY: Final = "_wandb_api_key"
SECRETS: Final = "secrets"
MOUNTS: Final = "mounts"
_Offer = TypeVar("_Offer", bound=ForQueues)
#: Names a JSON file with `overrides.run_config`, for jobs that use no library of W&B's; a job
#: without parameters has neither variable nor file. The same JSON is in `WANDB_CONFIG`.
PARAMETERS_VARIABLE: Final = "LAUNCH_CONFIG_FILE"
PARAMETERS_FILE: Final = "/run/launch/config.json"


def environment_of(
    claim: Claim, job_url: str, image: str | None, *, page_url: str | None = None
) -> dict[str, str]:
    """Variables of one attempt; holds its credential.

    `image` is the reference that the job names, for jobs that bring their image. `page_url` is
    where W&B's library says that people find the run; `None`: at `job_url`.
    """
    spec, lease, extra = claim.spec, claim.lease, claim.spec.model_extra or {}
    own_key = extra.get(_OWN_KEY)
    optional = {
        "WANDB_APP_URL": page_url,
        "WANDB_PROJECT": claim.project,
        "WANDB_DOCKER": image,
        "WANDB_NAME": claim.name,
        "WANDB_USERNAME": None if own_key else claim.author,
        "WANDB_SWEEP_ID": spec.sweep_id,
        "WANDB_RESUME": "allow" if extra.get("_resume_count") else None,
    }
    # Slots for `use_artifact`; only the agent says which job this is.
    artifacts = {**spec.overrides.artifacts, "_wandb_job": spec.job} if spec.job else {}
    return {
        "WANDB_BASE_URL": job_url,
        "WANDB_API_KEY": str(own_key or claim.run_token),
        "WANDB_ENTITY": claim.entity,
        "WANDB_RUN_ID": claim.run_name,
        "WANDB_LAUNCH": "True",
        **{name: value for name, value in optional.items() if value},
        "WANDB_LAUNCH_QUEUE_NAME": claim.queue,
        "WANDB_LAUNCH_QUEUE_ENTITY": str(extra.get("queue_entity") or claim.entity),
        "WANDB_LAUNCH_TRACE_ID": lease.item_id,
        "LAUNCH_ITEM_ID": lease.item_id,
        "LAUNCH_ATTEMPT": str(lease.attempt),
        "LAUNCH_EPOCH": str(lease.epoch),
        "LAUNCH_QUEUE": claim.queue,
        **chunked("WANDB_CONFIG", spec.overrides.run_config),
        **chunked("WANDB_LAUNCH_FILE_OVERRIDES", spec.overrides.files),
        "WANDB_ARTIFACTS": json.dumps(artifacts),
    }


def secrets_of(claim: Claim) -> Iterator[str]:
    """Secrets that come with a claim; logs and messages of its attempt must not show them."""
    yield claim.run_token
    if own_key := (claim.spec.model_extra or {}).get(_OWN_KEY):
        yield str(own_key)
    yield from _telling_values(claim.spec.args_for(claim.resource))


def _telling_values(arguments: Any) -> Iterator[str]:
    """Values of environment variables, in any backend's form, whose names say that they are secret.

    `NAME=value` for Docker and processes, `{"name": …, "value": …}` in manifests.
    """
    match arguments:
        case str() if is_telling_name(arguments.partition("=")[0]):
            yield arguments.partition("=")[2]
        case {"name": str(name), "value": str(value)} if is_telling_name(name):
            yield value
        case dict():
            for inner in arguments.values():
                yield from _telling_values(inner)
        case list():
            for inner in arguments:
                yield from _telling_values(inner)


def chunked(name: str, value: Any) -> dict[str, str]:
    """JSON under `name`, or under `name_0`, `name_1`, … where it is too long for one."""
    text = json.dumps(value)
    if len(text) <= MAX_VARIABLE_CHARS:
        return {name: text}
    starts = range(0, len(text), MAX_VARIABLE_CHARS)
    return {
        f"{name}_{i}": text[start : start + MAX_VARIABLE_CHARS] for i, start in enumerate(starts)
    }


@dataclass(frozen=True, slots=True)
class Injected:
    """Secrets, mounts and parameters of one job; see `RunRequest` for the fields."""

    environment: dict[str, str] = field(default_factory=dict, repr=False)
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    file_variables: dict[str, str] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()
    #: Values that its logs must not show.
    secrets: list[str] = field(default_factory=list, repr=False)


def injected_into(
    claim: Claim, secrets: Mapping[str, JobSecret], mounts: Mapping[str, MountConfig]
) -> Injected:
    """What is injected besides the variables of `environment_of`: reads the secrets. Blocks.

    Raises:
        PolicyError: as `given_to_queue`.
        JobError: `INTERNAL`: a secret cannot be read.
    """
    injected = Injected(mounts=tuple(given_to_queue(claim, MOUNTS, mounts)))
    parameter_file(claim, injected)
    for name, secret in given_to_queue(claim, SECRETS, secrets).items():
        value = _read(name, secret)
        injected.secrets.append(value)
        if secret.as_env:
            injected.environment[secret.as_env] = value
        if secret.as_file:
            injected.files[secret.as_file] = value.encode()
    return injected


def parameter_file(claim: Claim, injected: Injected) -> None:
    """Add the file of the job's parameters, if it has any."""
    if config := claim.spec.overrides.run_config:
        injected.files[PARAMETERS_FILE] = json.dumps(config, indent=2).encode()
        injected.file_variables[PARAMETERS_VARIABLE] = PARAMETERS_FILE


def given_to_queue(claim: Claim, kind: str, offered: Mapping[str, _Offer]) -> dict[str, _Offer]:
    """Those that the job names, if the administrator gives each to the item's queue.

    One message for what does not exist and for what other queues get: no queue is told of theirs.

    Raises:
        PolicyError: `POLICY_RESOURCE`: it does not; or as `named_by_queue`.
    """
    queue = f"{claim.entity}/{claim.queue}"
    given: dict[str, _Offer] = {}
    for name in named_by_queue(claim, kind):
        offer = offered.get(name)
        if offer is None or not offer.is_for(queue):
            message = f"`{kind}`: this agent offers no '{name}' to queue {queue}."
            hint = (
                f"The administrator defines it under `{kind}:` in the agent's configuration, and "
                f"lists '{queue}' in its `queues`."
            )
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
        given[name] = offer
    return given


def named_by_queue(claim: Claim, kind: str) -> tuple[str, ...]:
    """Names of secrets or mounts that the job gets.

    Raises:
        PolicyError: `POLICY_RESOURCE`: a name that the queue's template does not have,
            something that is no list of names, or another spelling of `kind`.
    """
    arguments = claim.spec.args_for(claim.resource)
    for key in arguments:
        # As options of Docker may be written; these are not options.
        if key != kind and key.lstrip("-").replace("-", "_").lower() == kind:
            message = f"Resource argument `{key}` is not known."
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint=f"It is written `{kind}`.")
    wanted = _names(arguments, kind)
    template = claim.layers.get("queue") or {}
    allowed = _names((template.get("resource_args") or {}).get(claim.resource) or {}, kind)
    for name in wanted:
        if name not in allowed:
            message = f"`{kind}`: '{name}' is not named by the template of queue {claim.queue}."
            hint = "Only a queue's template may name secrets and mounts."
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
    return wanted


def _names(arguments: Json, kind: str) -> tuple[str, ...]:
    value: Any = arguments.get(kind) or ()
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        message = f"Resource argument `{kind}` must be a list of names."
        raise PolicyError(Cause.POLICY_RESOURCE, message)
    return tuple(value)


def _read(name: str, secret: JobSecret) -> str:
    try:
        return secret.read().get_secret_value()
    except ConfigError as error:
        # Where it is stored concerns the administrator, not the submitter.
        structlog.get_logger().error("a job's secret cannot be read", name=name, error=str(error))
        message = f"The secret '{name}' cannot be read on this agent."
        hint = f"See `{SECRETS}.{name}` in the agent's configuration, and the agent's log."
        raise JobError(Cause.INTERNAL, message, hint=hint) from error
