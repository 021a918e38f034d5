"""Run requests of the tests of manifests."""

from pathlib import Path
from typing import Any

from agent.model.capacity import Allocation, Demand
from agent.model.work import CodeVersion, Image, Lease, MountedCode, workload_labels
from agent.ports.runner import RunRequest

LEASE = Lease("item7", 1, 2)
IMAGE = Image("registry.example/team/job@sha256:1", "digest", reused=True)


def request_for(arguments: dict[str, Any], **given: Any) -> RunRequest:
    """As the pipeline makes it; `given` may be words from a YAML file."""
    if "demand" in given:
        given["demand"] = Demand(**given["demand"])
    if "mounted_code" in given:
        version = CodeVersion(**given["mounted_code"].pop("version"))
        given["mounted_code"] = MountedCode(version=version, **given["mounted_code"])
    for words in ("command", "args", "mounts"):
        given[words] = tuple(given.get(words, ()))
    given["files"] = {path: text.encode() for path, text in given.get("files", {}).items()}
    given.setdefault("environment", {"WANDB_RUN_ID": "r1", "WANDB_API_KEY": "launchrun-x"})
    return RunRequest(
        lease=LEASE,
        name="launch-plane-item7-1",
        labels=workload_labels("plane", LEASE),
        image=IMAGE,
        arguments=arguments,
        allocation=Allocation(),
        folder=Path(),
        **given,
    )
