"""Workloads as the cluster's objects show them. Pure."""

from typing import Final

from agent.model.spec import Json
from agent.model.work import lease_from_labels
from agent.ports.runner import Ended, Pending, Running, Workload, WorkloadState
from agent.runners.kubernetes.manifest import SECRET_UID
from agent.runners.kubernetes.pending import Observed
from agent.runners.kubernetes.status import progress_of, ran_since

#: Annotation of a Secret: uid of the workload that was started from it.
WORKLOAD_UID: Final = "launch-agent/started-as"


def workload_of(job: Json, pods: list[Json]) -> Workload | None:
    """That of a Job or custom resource; `None` if it has no lease."""
    lease = lease_from_labels(labels_of(job))
    if lease is None:
        return None
    observed = Observed(job, tuple(pods))
    progress = progress_of(observed)
    match progress:
        case Pending():
            state = WorkloadState.PENDING
        case Running():
            state = WorkloadState.RUNNING
        case Ended():
            state = WorkloadState.EXITED
    return Workload(
        name=job["metadata"]["name"],
        id=secret_uid(job),
        lease=lease,
        state=state,
        started_at=ran_since(observed),
        ending=progress.ending if isinstance(progress, Ended) else None,
    )


def unstarted_of(secret: Json) -> Workload | None:
    """That of a Secret without a Job; `None` if it was started once."""
    lease = lease_from_labels(labels_of(secret))
    if lease is None or was_started(secret):
        return None
    metadata = secret["metadata"]
    return Workload(metadata["name"], metadata["uid"], lease, WorkloadState.CREATED)


def was_started(secret: Json) -> bool:
    """Whether a Job was made from a Secret."""
    # Where the Job is gone, the garbage collector has not come to the Secret yet.
    return WORKLOAD_UID in (secret["metadata"].get("annotations") or {})


def labels_of(item: Json) -> dict[str, str]:
    """Labels of an object."""
    return dict(item["metadata"].get("labels") or {})


def secret_uid(job: Json) -> str:
    """The Secret that a Job was made from; empty if it is none of ours."""
    return str((job["metadata"].get("annotations") or {}).get(SECRET_UID, ""))
