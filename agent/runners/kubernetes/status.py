"""What a Job, its pods and its events say: pending, running, or how it ended. Pure.

Terms are those of the Kubernetes API: pod phase and conditions, container states, Job
conditions (https://kubernetes.io/docs/concepts/workloads/controllers/job/).
"""

import re
from dataclasses import replace
from datetime import datetime
from typing import Final

from agent.model.cause import Cause
from agent.model.spec import Json
from agent.ports.runner import Ended, Ending, Pending, Progress, Running
from agent.runners.kubernetes.custom_status import Stage, custom_status, is_custom
from agent.runners.kubernetes.fields import (
    CODE_CONTAINER,
    condition,
    containers,
    first_start,
    init_containers,
    is_deleted,
    is_over,
    phase,
    sentence,
    state,
    status,
    time_of,
)
from agent.runners.kubernetes.pending import Observed, pending_of

#: Reason of a pod's condition `DisruptionTarget` → the cause.
_DISRUPTIONS: Final = {
    "PreemptionByScheduler": Cause.PREEMPTED,
    "EvictionByEvictionAPI": Cause.PREEMPTED,
    "DeletionByTaintManager": Cause.PREEMPTED,
    "TerminationByKubelet": Cause.PREEMPTED,
    "DeletionByPodGC": Cause.LOST_NODE,
}
#: Reason of a pod that its node ended or refused → the cause.
_BY_NODE: Final = {
    "Evicted": Cause.RUN_EVICTED,
    "DeadlineExceeded": Cause.RUN_DEADLINE,
    "Preempting": Cause.PREEMPTED,
    "Terminated": Cause.PREEMPTED,
    "NodeShutdown": Cause.PREEMPTED,
    "Shutdown": Cause.PREEMPTED,
    "NodeLost": Cause.LOST_NODE,
}
_START_ERRORS: Final = frozenset({"StartError", "ContainerCannotRun"})
#: Steps of the runtime before the one that failed.
_STEPS: Final = re.compile(
    r"^(?:failed to create (?:containerd|shim) task: |OCI runtime create failed: "
    r"|runc create failed: |unable to start container process: )+"
)
#: All that such a container writes to its log.
_FORMAT_ERROR: Final = re.compile(r"exec \S+: exec format error\s*")


def progress_of(observed: Observed) -> Progress:
    """The current progress: pending, running or ended."""
    ending = _ending(observed)
    if ending is not None:
        return Ended(ending)
    running = [pod for pod in reversed(observed.pods) if phase(pod) == "Running"]
    silent = [pod for pod in running if pod["metadata"]["uid"] in observed.silent]
    if silent:
        return Pending(Cause.LOST_NODE, _silent(silent[0]))
    if running:
        pod = running[0]
        return Running(first_start(pod) or time_of(status(pod).get("startTime")))
    if is_custom(observed.job) and custom_status(observed.job).stage is Stage.RUNNING:
        return Running(ran_since(observed))
    return pending_of(observed)


def is_finished(job: Json) -> bool:
    """Whether its controller says that it has ended."""
    if is_custom(job):
        return custom_status(job).stage >= Stage.FAILED
    return any(condition(job, kind) for kind in ("Complete", "Failed"))


def ran_since(observed: Observed) -> datetime | None:
    """When a container of it first ran; `None` if none did."""
    times = [time for pod in observed.pods if (time := first_start(pod)) is not None]
    return min(times, default=None)


def _custom_ending(observed: Observed) -> Ending | None:
    """Decided by the status of the custom resource alone: its operator may replace failed pods."""
    found = custom_status(observed.job)
    at = time_of(found.since)
    if found.stage is Stage.SUCCEEDED:
        return Ending(0, finished_at=at)
    if found.stage is not Stage.FAILED:
        return None
    endings = [_pod_ending(pod) for pod in observed.pods if is_over(pod)]
    failed = [each for each in endings if each.exit_code or each.cause is not None]
    kind = observed.job.get("kind")
    message = f"the {kind} has failed: {found.message or 'its operator gives no reason'}"
    return failed[-1] if failed else Ending(None, None, Cause.RUN_EXIT_CODE, message, at)


def _ending(observed: Observed) -> Ending | None:
    job = observed.job
    if is_custom(job):
        return _custom_ending(observed)
    if complete := condition(job, "Complete"):
        ended = [_container_ending(pod) for pod in observed.pods if phase(pod) == "Succeeded"]
        at = time_of(complete.get("lastTransitionTime"))
        return Ending(0, finished_at=(ended[-1].finished_at if ended else None) or at)
    if is_deleted(job):
        return None  # a watch sees it vanish
    if failed := condition(job, "Failed"):
        return _failure(observed, failed)
    return _ending_of_only_pod(observed)


def _failure(observed: Observed, failed: Json) -> Ending:
    at = time_of(failed.get("lastTransitionTime"))
    if failed.get("reason") == "DeadlineExceeded":
        seconds = observed.job["spec"].get("activeDeadlineSeconds")
        message = f"the Job's `activeDeadlineSeconds` ({seconds}) have passed"
        ran = ran_since(observed) is not None or not observed.pods
        cause = Cause.RUN_DEADLINE if ran else Cause.SCHEDULE_TIMEOUT
        return Ending(None, cause=cause, message=message, finished_at=at)
    over = [pod for pod in observed.pods if phase(pod) == "Failed"]
    # Pods of a parallel Job are deleted when one has failed.
    deciding = [pod for pod in over if not is_deleted(pod)] or over
    if deciding:
        return _pod_ending(deciding[-1])
    if observed.pods and ran_since(observed) is None:
        message = "its pod was deleted before it ran; see what else manages pods in that namespace"
        return Ending(None, cause=Cause.START_FAILED, message=message, finished_at=at)
    message = f"the Job has failed, and its pods were deleted: {sentence(failed)}"
    return Ending(None, cause=Cause.LOST_WORKLOAD, message=message, finished_at=at)


def _ending_of_only_pod(observed: Observed) -> Ending | None:
    """The ending of a Job with one pod and no retries.

    Its controller may not have seen that ending yet, or never sees it.
    """
    spec = observed.job["spec"]
    single = spec.get("backoffLimit") == 0 and spec.get("completions", 1) == 1
    if not observed.pods or not single or "podFailurePolicy" in spec or spec.get("suspend"):
        return None
    pod = observed.pods[-1]
    if pod["metadata"]["uid"] in observed.silent:
        return Ending(None, cause=Cause.LOST_NODE, message=_silent(pod))
    # The controller knows why a pod is deleted: a deadline, a suspension, a stop.
    return _pod_ending(pod) if is_over(pod) and not is_deleted(pod) else None


def _silent(pod: Json) -> str:
    node = pod["spec"].get("nodeName")
    target = condition(pod, "DisruptionTarget")
    why = f": {sentence(target)}" if target else ""
    return f"node '{node}' does not end the job's pod, which was deleted{why}"


def _pod_ending(pod: Json) -> Ending:
    """Of a pod that is over."""
    ending = _container_ending(pod)
    reason = status(pod).get("reason")
    if reason in _BY_NODE:
        cause, message = _BY_NODE[reason], sentence(status(pod))
    elif (target := condition(pod, "DisruptionTarget")) and target.get("reason") in _DISRUPTIONS:
        cause, message = _DISRUPTIONS[target["reason"]], sentence(target)
        ended = any(state(one, "terminated") for one in containers(pod))
        if target["reason"] == "DeletionByTaintManager" and not ended:
            cause = Cause.LOST_NODE
    else:
        return ending
    if cause is Cause.LOST_NODE:
        ending = replace(ending, exit_code=None, signal=None)
    return replace(ending, cause=cause, message=message)


def _container_ending(pod: Json) -> Ending:
    """Of the first container that failed, else of the first one."""
    ended = [(one["name"], found) for one in containers(pod) if (found := state(one, "terminated"))]
    if not ended:
        return _without_container(pod)
    _, last = next((one for one in ended if one[1].get("exitCode")), ended[0])
    at = time_of(last.get("finishedAt"))
    message, reason = str(last.get("message") or "").strip(" .\n"), last.get("reason")
    ending = Ending.from_exit_code(int(last["exitCode"]), at)
    if _FORMAT_ERROR.fullmatch(message):
        message = f"{message}: the image is for another processor architecture than the node"
        return Ending(None, cause=Cause.IMAGE_PLATFORM, message=message, finished_at=at)
    if reason == "OOMKilled":
        message = "killed because it used more memory than it was given"
        return replace(ending, cause=Cause.RUN_OUT_OF_MEMORY, message=message)
    if reason in _START_ERRORS:
        text = _STEPS.sub("", message).removesuffix(": unknown")
        cause = Cause.START_ENTRYPOINT if text.startswith("exec: ") else Cause.START_FAILED
        return Ending(None, cause=cause, message=text, finished_at=at)
    if reason == "ContainerStatusUnknown":
        message = f"its node has lost the container: {message}"
        return Ending(None, cause=Cause.LOST_NODE, message=message, finished_at=at)
    deleted = "its pod was deleted by another program or user" if is_deleted(pod) else ""
    return replace(ending, message=deleted)


def _without_container(pod: Json) -> Ending:
    """Of a pod none of whose containers ended."""
    for container in init_containers(pod):
        found = state(container, "terminated") or {}
        if found.get("exitCode"):
            return _init_failure(container, found)
    message = f"its pod ended before its container ran: {sentence(status(pod))}"
    ran = first_start(pod) is not None
    return Ending(None, cause=Cause.LOST_WORKLOAD if ran else Cause.START_FAILED, message=message)


def _init_failure(container: Json, ended: Json) -> Ending:
    at, how = time_of(ended.get("finishedAt")), f"exit code {ended['exitCode']}"
    if ended.get("reason") == "OOMKilled":
        how = "more memory than it was given"
    if container["name"] != CODE_CONTAINER:
        message = f"init container '{container['name']}' failed ({how})"
        return Ending(None, cause=Cause.START_INIT, message=message, finished_at=at)
    said = str(ended.get("message") or "").strip(" .\n")
    if ended.get("reason") in _START_ERRORS:
        text = _STEPS.sub("", said).removesuffix(": unknown")
        said = f"image {container['image']} (`code_image`) cannot run the fetch: {text}"
    message = f"the job's code could not be fetched into its pod: {said or how}"
    return Ending(None, cause=Cause.START_CODE, message=message, finished_at=at)
