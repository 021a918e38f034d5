"""The variables that every job gets, so that `wandb.init()` inside finds its configuration."""

import json
from typing import Any, Final

from agent.model.work import Claim

#: Longest value of one variable, in characters; longer JSON is cut into numbered ones.
LONGEST: Final = 32670


def environment_of(claim: Claim, job_url: str, image: str | None) -> dict[str, str]:
    """Variables of one attempt; holds its credential.

    `image` is the reference that the job names, for jobs that bring their image.
    """
    return (
        _target(claim, job_url)
        | _conditional(claim, image)
        | _queue(claim)
        | chunked("WANDB_CONFIG", claim.spec.overrides.run_config)
        | chunked("WANDB_LAUNCH_FILE_OVERRIDES", claim.spec.overrides.files)
        | {"WANDB_ARTIFACTS": json.dumps(_artifacts(claim))}
    )


def chunked(name: str, value: Any) -> dict[str, str]:
    """JSON under `name`, or under `name_0`, `name_1`, … where it is too long for one."""
    text = json.dumps(value)
    if len(text) <= LONGEST:
        return {name: text}
    starts = range(0, len(text), LONGEST)
    return {f"{name}_{i}": text[start : start + LONGEST] for i, start in enumerate(starts)}


def _target(claim: Claim, job_url: str) -> dict[str, str]:
    variables = {
        "WANDB_BASE_URL": job_url,
        "WANDB_API_KEY": _own_key(claim) or claim.run_token,
        "WANDB_ENTITY": claim.entity,
        "WANDB_RUN_ID": claim.run_name,
        "WANDB_LAUNCH": "True",
    }
    if claim.project:
        variables["WANDB_PROJECT"] = claim.project
    return variables


def _conditional(claim: Claim, image: str | None) -> dict[str, str]:
    extra = claim.spec.model_extra or {}
    author = None if _own_key(claim) else claim.author
    given = {
        "WANDB_DOCKER": image,
        "WANDB_NAME": claim.name,
        "WANDB_USERNAME": author,
        "WANDB_SWEEP_ID": claim.spec.sweep_id,
        "WANDB_RESUME": "allow" if extra.get("_resume_count") else None,
    }
    return {name: value for name, value in given.items() if value}


def _queue(claim: Claim) -> dict[str, str]:
    extra = claim.spec.model_extra or {}
    lease = claim.lease
    return {
        "WANDB_LAUNCH_QUEUE_NAME": claim.queue,
        "WANDB_LAUNCH_QUEUE_ENTITY": str(extra.get("queue_entity") or claim.entity),
        "WANDB_LAUNCH_TRACE_ID": lease.item_id,
        "LAUNCH_ITEM_ID": lease.item_id,
        "LAUNCH_ATTEMPT": str(lease.attempt),
        "LAUNCH_EPOCH": str(lease.epoch),
        "LAUNCH_QUEUE": claim.queue,
    }


def _own_key(claim: Claim) -> str | None:
    """W&B's `_wandb_api_key`: the submitter's key for this run."""
    key = (claim.spec.model_extra or {}).get("_wandb_api_key")
    return str(key) if key else None


def _artifacts(claim: Claim) -> dict[str, Any]:
    """Slots for `use_artifact`; nobody but the agent says which job this is."""
    if not claim.spec.job:
        return {}
    return {**claim.spec.overrides.artifacts, "_wandb_job": claim.spec.job}
