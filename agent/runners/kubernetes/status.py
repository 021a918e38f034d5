"""What a Job, its pods and its events say: pending, running, or how it ended. Pure.

Terms are those of the Kubernetes API: pod phase and conditions, container states, Job
conditions (https://kubernetes.io/docs/concepts/workloads/controllers/job/).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.spec import Json
from agent.ports.runner import Ended, Ending, Pending, Progress, Running

#: Reasons of a waiting container: it will not run however long one waits.
_NEVER: Final = {
    "InvalidImageName": Cause.IMAGE_NOT_FOUND,
    "ErrImageNeverPull": Cause.IMAGE_NOT_FOUND,
    "CreateContainerConfigError": Cause.START_FAILED,
    "CreateContainerError": Cause.START_FAILED,
    "RunContainerError": Cause.START_ENTRYPOINT,
}
_PULLING: Final = frozenset({"ErrImagePull", "ImagePullBackOff"})
#: Parts of a registry's answer, in lower case → the cause; the first match counts.
_REGISTRY_ANSWERS: Final = (
    ("not found", Cause.IMAGE_NOT_FOUND),
    ("manifest unknown", Cause.IMAGE_NOT_FOUND),
    ("no match for platform", Cause.IMAGE_PLATFORM),
    ("unauthorized", Cause.IMAGE_AUTH),
    ("authorization failed", Cause.IMAGE_AUTH),
    ("denied", Cause.IMAGE_AUTH),
)
#: Reason of a pod's condition `DisruptionTarget` → the cause.
_DISRUPTIONS: Final = {
    "PreemptionByScheduler": Cause.PREEMPTED,
    "EvictionByEvictionAPI": Cause.PREEMPTED,
    "DeletionByTaintManager": Cause.LOST_NODE,
    "DeletionByPodGC": Cause.LOST_NODE,
    "TerminationByKubelet": Cause.RUN_EVICTED,
}
_CANNOT_EXECUTE: Final = frozenset({126, 127, 128})


@dataclass(frozen=True, slots=True)
class Observed:
    """One job as the cluster shows it."""

    job: Json
    #: In the order of their creation.
    pods: tuple[Json, ...] = ()
    #: Message of the newest event `FailedCreate` of the Job.
    refusal: str = ""


def progress_of(observed: Observed) -> Progress:
    """What is to be said about it now."""
    ending = _ending(observed)
    if ending is not None:
        return Ended(ending)
    for pod in reversed(observed.pods):
        since = _running_since(pod)
        if since is not None:
            return Running(since)
    return _pending(observed)


def is_finished(job: Json) -> bool:
    """Whether its controller says that it has ended."""
    return any(_condition(job, kind) for kind in ("Complete", "Failed"))


def is_over(pod: Json) -> bool:
    """Whether a pod will run nothing more."""
    return _phase(pod) in {"Succeeded", "Failed"}


def ran_since(observed: Observed) -> datetime | None:
    """When a container of it first ran; `None` if none did."""
    times = [time for pod in observed.pods if (time := _first_start(pod)) is not None]
    return min(times, default=None)


def _ending(observed: Observed) -> Ending | None:
    job, pods = observed.job, observed.pods
    complete, failed = _condition(job, "Complete"), _condition(job, "Failed")
    if complete is None and failed is None:
        return _settled_by_pod(observed)
    condition = complete or failed or {}
    at = _time(condition.get("lastTransitionTime"))
    ended = [ending for pod in pods if (ending := _pod_ending(pod)) is not None]
    if complete is not None:
        return next((one for one in ended if one.exit_code == 0), Ending(0, finished_at=at))
    if condition.get("reason") == "DeadlineExceeded":
        message = "the Job's `activeDeadlineSeconds` have passed"
        return Ending(None, cause=Cause.RUN_DEADLINE, message=message, finished_at=at)
    if ended:
        return ended[-1]
    return Ending(
        None,
        cause=Cause.LOST_WORKLOAD,
        message=f"the Job has failed, and none of its pods is left: {condition.get('message')}",
        finished_at=at,
    )


def _settled_by_pod(observed: Observed) -> Ending | None:
    """An ending before the Job's controller has seen it; also one that it will never see."""
    spec = observed.job["spec"]
    single = spec.get("backoffLimit") == 0 and spec.get("completions", 1) == 1
    if not observed.pods or not single or "podFailurePolicy" in spec:
        return None
    pod = observed.pods[-1]
    return _pod_ending(pod) or _never_runs(pod)


def _pod_ending(pod: Json) -> Ending | None:
    status = pod.get("status") or {}
    target = _condition(pod, "DisruptionTarget")
    cause = _DISRUPTIONS.get(str((target or {}).get("reason")))
    if cause is Cause.LOST_NODE and _phase(pod) not in {"Succeeded", "Failed"}:
        return Ending(None, cause=cause, message=_sentence(target))
    if _phase(pod) not in {"Succeeded", "Failed"}:
        return None
    if status.get("reason") == "Evicted":
        cause = Cause.RUN_EVICTED
    ending = _container_ending(pod)
    if cause is None:
        return ending
    message = _sentence(target) if target else str(status.get("message") or "evicted").rstrip(".")
    if cause is Cause.LOST_NODE:
        return Ending(None, cause=cause, message=message, finished_at=ending.finished_at)
    return replace(ending, cause=cause, message=message)


def _container_ending(pod: Json) -> Ending:
    """Of the first container that failed, else of the first one."""
    ended = [
        (container["name"], state)
        for container in _containers(pod)
        if (state := (container.get("state") or {}).get("terminated")) is not None
    ]
    if not ended:
        status = pod.get("status") or {}
        reason = status.get("message") or "no reason given"
        message = f"its pod ended without a container's state: {reason}"
        cause = Cause.LOST_NODE if status.get("reason") == "NodeLost" else Cause.LOST_WORKLOAD
        return Ending(None, cause=cause, message=message)
    _, state = next((one for one in ended if one[1].get("exitCode")), ended[0])
    ending = Ending.from_exit_code(int(state["exitCode"]), _time(state.get("finishedAt")))
    if state.get("reason") == "OOMKilled":
        message = "killed because it used more memory than it was given"
        return replace(ending, cause=Cause.RUN_OUT_OF_MEMORY, message=message)
    if state.get("reason") in {"StartError", "ContainerCannotRun"}:
        executable = ending.exit_code in _CANNOT_EXECUTE
        cause = Cause.START_ENTRYPOINT if executable else Cause.START_FAILED
        return replace(ending, cause=cause, message=str(state.get("message") or "").rstrip("."))
    return ending


def _never_runs(pod: Json) -> Ending | None:
    """The ending of a pod that waits for what cannot come."""
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason"), str(waiting.get("message") or "")
        cause = _NEVER.get(str(reason))
        if reason in _PULLING:
            cause = _permanent_pull_failure(message)
        if cause is not None:
            return Ending(None, cause=cause, message=f"{container['name']}: {message or reason}")
    return None


def _permanent_pull_failure(message: str) -> Cause | None:
    lowered = message.lower()
    return next((cause for part, cause in _REGISTRY_ANSWERS if part in lowered), None)


def _pending(observed: Observed) -> Pending:
    job, since = observed.job, _time(observed.job["metadata"].get("creationTimestamp"))
    suspended = _condition(job, "Suspended")
    if job["spec"].get("suspend") or suspended is not None:
        message = str((suspended or {}).get("message") or "the Job is suspended")
        return Pending(Cause.SCHEDULE_SUSPENDED, message, since)
    if not observed.pods:
        if observed.refusal:
            return Pending(Cause.SCHEDULE_QUOTA, observed.refusal, since)
        return Pending(Cause.SCHEDULE_WAITING, "its pod has not been created yet", since)
    pod = observed.pods[-1]
    scheduled = _condition(pod, "PodScheduled", status="False")
    if scheduled is not None:
        return Pending(Cause.SCHEDULE_NO_NODE, _sentence(scheduled), since)
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _PULLING:
            return Pending(Cause.SCHEDULE_IMAGE, str(waiting.get("message")), since)
    return Pending(Cause.SCHEDULE_IMAGE, "its containers are being created", since)


def _running_since(pod: Json) -> datetime | None:
    if _phase(pod) != "Running":
        return None
    return _first_start(pod) or _time((pod.get("status") or {}).get("startTime"))


def _first_start(pod: Json) -> datetime | None:
    times = [
        time
        for container in _containers(pod)
        for state in ("running", "terminated")
        if (time := _time(((container.get("state") or {}).get(state) or {}).get("startedAt")))
    ]
    return min(times, default=None)


def _containers(pod: Json) -> Iterator[Any]:
    yield from (pod.get("status") or {}).get("containerStatuses") or ()


def _phase(pod: Json) -> str:
    return str((pod.get("status") or {}).get("phase"))


def _condition(item: Json, kind: str, status: str = "True") -> Json | None:
    conditions: Sequence[Json] = (item.get("status") or {}).get("conditions") or ()
    return next(
        (one for one in conditions if one["type"] == kind and one.get("status") == status), None
    )


def _sentence(condition: Json | None) -> str:
    found = condition or {}
    return str(found.get("message") or found.get("reason") or "no reason given").rstrip(".")


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
