"""What the status of a custom resource says. Pure.

Operators write words: in `status.phase` or `status.state`, as types of conditions, or as counts
of replicated jobs. The words are those of W&B's agent (`kubernetes_monitor.py` in 0.31.0) and
of operators in use: Kubeflow, JobSet, Ray, Volcano, Spark, Argo, Tekton.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from agent.model.spec import Json
from agent.runners.kubernetes.policy import JOB_VERSIONS


class Stage(IntEnum):
    """How far it is; of several words the highest counts."""

    UNKNOWN = 0
    PENDING = 1
    RUNNING = 2
    FAILED = 3
    SUCCEEDED = 4


_WORDS: Final[dict[str, Stage]] = {
    **dict.fromkeys(("created", "pending", "submitted"), Stage.PENDING),
    **dict.fromkeys(("running", "completing", "terminating"), Stage.RUNNING),
    **dict.fromkeys(("succeeded", "completed", "complete"), Stage.SUCCEEDED),
    **dict.fromkeys(
        ("failed", "aborted", "timeout", "terminated", "error", "stopped"), Stage.FAILED
    ),
}
#: Paths below `status` at which a word stands.
_PLACES: Final = (
    ("phase",),
    ("state",),
    ("state", "phase"),
    ("terminalState",),
    ("jobStatus",),
    ("applicationState", "state"),
)
_REPLICATED: Final = ("replicatedJobsStatus", "ReplicatedJobsStatus")


@dataclass(frozen=True, slots=True)
class CustomStatus:
    """The status of a custom resource."""

    stage: Stage
    #: The operator's sentence; empty where it gives none.
    message: str = ""
    #: When it came to this stage, as the API writes times.
    since: str | None = None


def is_custom(workload: Json) -> bool:
    """Whether it is a custom resource; lists of Jobs leave `apiVersion` out."""
    return workload.get("apiVersion", "batch/v1") not in JOB_VERSIONS


def custom_status(resource: Json) -> CustomStatus:
    """How far a custom resource is, by its own status alone."""
    status = resource.get("status")
    found = list(_statuses(status)) if isinstance(status, dict) else []
    return max(found, key=lambda each: each.stage, default=CustomStatus(Stage.UNKNOWN))


def _statuses(status: Json) -> Iterator[CustomStatus]:
    told = str(status.get("message") or status.get("reason") or "")
    conditions = status.get("conditions")
    true = False
    for condition in conditions if isinstance(conditions, list) else ():
        if not isinstance(condition, dict) or condition.get("status") != "True":
            continue
        true = True
        if stage := _WORDS.get(str(condition.get("type")).lower()):
            yield _of_condition(condition, stage)
    # Tekton and Knative have one condition, `Succeeded`, which becomes false.
    for condition in conditions if isinstance(conditions, list) and not true else ():
        is_result = isinstance(condition, dict) and condition.get("type") == "Succeeded"
        if is_result and condition.get("status") == "False":
            yield _of_condition(condition, Stage.FAILED)
    for place in _PLACES:
        if stage := _WORDS.get(str(_at(status, place)).lower()):
            yield CustomStatus(stage, told)
    for key in _REPLICATED:
        yield from _replicated(status.get(key))


def _of_condition(condition: Json, stage: Stage) -> CustomStatus:
    words = (condition.get("reason"), condition.get("message"))
    return CustomStatus(
        stage,
        ": ".join(str(each) for each in words if each).rstrip("."),
        condition.get("lastTransitionTime"),
    )


def _replicated(replicas: Any) -> Iterator[CustomStatus]:
    for each in replicas if isinstance(replicas, list) else ():
        if each.get("ready"):
            yield CustomStatus(Stage.RUNNING)
        elif each.get("active"):
            yield CustomStatus(Stage.PENDING)


def _at(status: Json, place: tuple[str, ...]) -> Any:
    found: Any = status
    for key in place:
        found = found.get(key) if isinstance(found, dict) else None
    return found
