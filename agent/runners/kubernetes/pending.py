"""Why a started Job does not run: from the Job, its pods and the cluster's warnings. Pure.

Sentences are the cluster's own, without what changes from one try to the next, so that a reason
is told once. They were recorded from Kubernetes 1.36 and containerd 1.7
(tests/unit/runners/kubernetes/recorded/).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

from agent.model.cause import WAITING, Cause
from agent.model.spec import Json
from agent.ports.runner import Pending
from agent.runners.kubernetes.custom_status import custom_status, is_custom
from agent.runners.kubernetes.fields import (
    CODE_CONTAINER,
    ON_ITS_WAY,
    condition,
    containers,
    init_containers,
    is_deleted,
    is_over,
    sentence,
    state,
    status,
    time_of,
)

#: Reasons of warnings that say why something does not go on.
REFUSED: Final = "FailedCreate"
_MOUNTS: Final = ("FailedMount", "FailedAttachVolume")
_SANDBOX: Final = "FailedCreatePodSandBox"
WARNINGS: Final = frozenset({REFUSED, *_MOUNTS, _SANDBOX})
_PULLS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"}
)
#: The image cannot be had, whatever a registry says later.
_NO_IMAGE: Final = frozenset({"InvalidImageName", "ErrImageNeverPull"})
#: A registry's answer → the cause; the first match counts.
_REGISTRY_ANSWERS: Final = (
    (re.compile(r"no match for platform|no image found in .* index for"), Cause.IMAGE_PLATFORM),
    (
        re.compile(
            r"unauthorized|authentication required|authorization failed|access denied"
            r"|\bdenied\b|no basic auth credentials|\b40[13]\b",
            re.IGNORECASE,
        ),
        Cause.IMAGE_AUTH,
    ),
    (
        re.compile(r": not found\b|(manifest|name) unknown|\b404\b", re.IGNORECASE),
        Cause.IMAGE_NOT_FOUND,
    ),
)
#: Quoted names and URLs in a registry's answer; removed before it is matched.
_NAMES: Final = re.compile(r'"[^"]*"|https?://\S+')
_BACK_OFF: Final = re.compile(r'^Back-off pulling image "[^"]*": (?:ErrImagePull: )?')
_PULL_STEPS: Final = re.compile(
    r'^(?:rpc error: code = \w+ desc = |failed to pull and unpack image "[^"]*": '
    r'|failed to resolve reference "[^"]*": )+'
)
_NEW_NAME: Final = re.compile(r'^(?:Error creating: )?(?:[\w.]+ "[^"]*" is forbidden: )?')
_PREEMPTION: Final = re.compile(r"\.? (?:no new claims to deallocate, )?preemption: .*$")
_MISSING: Final = re.compile(r"not found|couldn't find key|non-existent config", re.IGNORECASE)
_QUOTA: Final = re.compile(r"exceeded quota: .*requested: (.*), used: .*, limited: (.*)")
_QUANTITY: Final = re.compile(r"([0-9.]+)([a-zA-Z]*)")
_SUFFIXES: Final[Mapping[str, Decimal]] = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("", "k", "M", "G", "T", "P"))},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("", "Ki", "Mi", "Gi", "Ti"))},
}


@dataclass(frozen=True, slots=True)
class Warned:
    """An event: the newest of one reason about one object, if it is a warning."""

    message: str
    at: datetime | None

    def is_newer(self, other: "Warned | None") -> bool:
        """Whether it is not older than another one."""
        return other is None or self.at is None or other.at is None or self.at >= other.at


@dataclass(frozen=True, slots=True)
class Observed:
    """One job as the cluster shows it."""

    job: Json
    #: In the order of their creation.
    pods: tuple[Json, ...] = ()
    #: By uid of the Job or pod, then by the warning's reason.
    warnings: Mapping[str, Mapping[str, Warned]] = field(default_factory=dict)
    #: Kueue's object for the Job, where that queue has the Job.
    admission: Json | None = None
    #: Pods, by uid, that should have ended by now and of which their node says nothing.
    silent: frozenset[str] = frozenset()
    #: The newest event of each pod that is no warning, by uid; for people.
    news: Mapping[str, Warned] = field(default_factory=dict)

    def warned(self, item: Json, reason: str) -> Warned | None:
        """A warning about the Job or one of its pods."""
        return self.warnings.get(item["metadata"]["uid"], {}).get(reason)


def pending_of(observed: Observed) -> Pending:
    """What a Job waits for that has not ended and of which nothing runs."""
    if _is_suspended(observed.job):
        return _suspended(observed)
    waiting = [pod for pod in observed.pods if not is_over(pod) and not is_deleted(pod)]
    if not waiting and is_custom(observed.job):
        return _custom_without_pod(observed.job)
    if not waiting:
        return _without_pod(observed)
    reasons = [_of_pod(observed, pod) for pod in waiting]
    # Pods of one Job are alike; one that never runs decides.
    return max(reasons, key=lambda one: (one.permanent, one.cause not in WAITING))


def refusal_of(message: str, since: datetime | None = None) -> Pending:
    """Why the cluster does not create an object, from its answer."""
    text = _NEW_NAME.sub("", message, count=1).strip(" .")
    quota = _QUOTA.search(text)
    if quota is not None:
        hopeless = _exceeds(quota[1], quota[2])
        cause = Cause.START_REFUSED if hopeless else Cause.SCHEDULE_QUOTA
        return Pending(cause, text, since, permanent=hopeless)
    if "status unknown for quota" in text:
        # The quota is new; its usage has not been computed yet.
        return Pending(Cause.SCHEDULE_QUOTA, text, since)
    if "serviceaccount" in text and _MISSING.search(text):
        return Pending(Cause.START_REFERENCE, text)
    if re.search(r"is forbidden|is invalid|denied the request", message):
        return Pending(Cause.START_REFUSED, text, permanent=True)
    return Pending(Cause.START_FAILED, text)


def _exceeds(requested: str, limited: str) -> bool:
    """Whether the request is more than the quota's limit, whatever else uses the quota."""
    limits = dict(part.split("=", 1) for part in limited.split(",") if "=" in part)
    asked = (part.split("=", 1) for part in requested.split(",") if "=" in part)
    return any(_amount(value) > _amount(limits.get(name, "")) for name, value in asked)


def _amount(text: str) -> Decimal:
    found = _QUANTITY.fullmatch(text.strip())
    if found is None or found[2] not in _SUFFIXES:
        return Decimal("Infinity")
    return Decimal(found[1]) * _SUFFIXES[found[2]]


def _is_suspended(job: Json) -> bool:
    spec = job.get("spec") or {}
    if not is_custom(job):
        return bool(spec.get("suspend"))
    run_policy = spec.get("runPolicy") or {}  # Kubeflow's
    return bool(spec.get("suspend") or run_policy.get("suspend") or condition(job, "Suspended"))


def _custom_without_pod(resource: Json) -> Pending:
    kind, message = resource.get("kind"), custom_status(resource).message
    if not status(resource):
        message = f"no operator has taken the {kind} up yet"
    message = message or f"the {kind} has no pods yet"
    return Pending(Cause.SCHEDULE_SETUP, message, _created(resource))


def _suspended(observed: Observed) -> Pending:
    found = condition(observed.job, "Suspended") or {}
    since = time_of(found.get("lastTransitionTime")) or _created(observed.job)
    message = "the Job is suspended (`spec.suspend`)"
    if is_custom(observed.job):
        message = str(found.get("message") or f"the {observed.job.get('kind')} is suspended")
    if observed.admission is not None:
        message = f"Kueue: {_admission(observed.admission)}"
    return Pending(Cause.SCHEDULE_SUSPENDED, message, since)


def _admission(admission: Json) -> str:
    """Why Kueue has not admitted its Workload."""
    if evicted := condition(admission, "Evicted"):
        return f"it was evicted: {sentence(evicted)}"
    for kind in ("QuotaReserved", "Admitted"):
        if refused := condition(admission, kind, "False"):
            return sentence(refused)
    return "it has not been looked at yet"


def _without_pod(observed: Observed) -> Pending:
    job, since = observed.job, _created(observed.job)
    newest = max((time for pod in observed.pods if (time := _created(pod))), default=None)
    refused = observed.warned(job, REFUSED)
    if refused and (newest is None or (refused.at is not None and refused.at > newest)):
        return refusal_of(refused.message, since)
    if any(not is_over(pod) for pod in observed.pods):
        return Pending(Cause.SCHEDULE_SETUP, "its pod is being deleted", since)
    if observed.pods:
        failed = status(job).get("failed", 0)
        limit = job["spec"].get("backoffLimit", "unlimited")
        message = f"its pod ended; the cluster runs it again (retry {failed} of {limit})"
        return Pending(Cause.SCHEDULE_SETUP, message)
    return Pending(Cause.SCHEDULE_SETUP, "its pod has not been created yet", since)


def _of_pod(observed: Observed, pod: Json) -> Pending:
    if unplaced := condition(pod, "PodScheduled", "False"):
        return _unplaced(unplaced)
    node = pod["spec"].get("nodeName")
    if node is None:
        return Pending(Cause.SCHEDULE_SETUP, "its pod waits for the scheduler", _created(pod))
    # A manifest that names the node passes by the scheduler.
    placed = condition(pod, "PodScheduled") or {}
    since = time_of(placed.get("lastTransitionTime")) or _created(pod)
    ready = condition(pod, "PodReadyToStartContainers")
    if ready is None and (blocked := _blocked(observed, pod, since)):
        return blocked
    for container in (*init_containers(pod), *containers(pod)):
        if (trouble := _trouble(container)) is not None:
            return trouble
    if ready is None or not containers(pod):
        return Pending(Cause.SCHEDULE_SETUP, f"node '{node}' prepares its pod", since)
    ready_at = time_of(ready.get("lastTransitionTime"))
    return _before_the_job(pod, ready_at)


def _unplaced(found: Json) -> Pending:
    text, since = sentence(found), time_of(found.get("lastTransitionTime"))
    text = _PREEMPTION.sub("", text).removesuffix(". not found").strip(" .")
    if found.get("reason") == "SchedulingGated":
        return Pending(Cause.SCHEDULE_SUSPENDED, f"its pods are held back: {text}", since)
    claims = "persistentvolumeclaim" in text.lower()
    if claims and _MISSING.search(text):
        return Pending(Cause.START_REFERENCE, text)
    cause = Cause.SCHEDULE_VOLUME if claims else Cause.SCHEDULE_NO_NODE
    return Pending(cause, text, since)


def _blocked(observed: Observed, pod: Json, since: datetime | None) -> Pending | None:
    """What keeps the node from preparing a pod."""
    for reason in _MOUNTS:
        if warned := observed.warned(pod, reason):
            text = warned.message.strip(" .")
            if _MISSING.search(text):
                return Pending(Cause.START_REFERENCE, text)
            return Pending(Cause.SCHEDULE_VOLUME, text, since)
    if warned := observed.warned(pod, _SANDBOX):
        return Pending(Cause.SCHEDULE_SETUP, warned.message.strip(" ."), since)
    return None


def _trouble(container: Json) -> Pending | None:
    waiting = state(container, "waiting") or {}
    reason, message = waiting.get("reason"), str(waiting.get("message") or "").strip(" .")
    if reason in ON_ITS_WAY:
        return None
    if reason in _NO_IMAGE:
        return Pending(Cause.IMAGE_NOT_FOUND, message or str(reason), permanent=True)
    if reason in _PULLS:
        return _pull_failure(str(container["image"]), message)
    text = f"container '{container['name']}': {message or reason}"
    if reason == "CreateContainerConfigError" and _MISSING.search(message):
        return Pending(Cause.START_REFERENCE, text)
    if "runAsNonRoot" in message:
        return Pending(Cause.START_REFUSED, text.partition(" (pod: ")[0], permanent=True)
    return Pending(Cause.START_FAILED, text)


def _pull_failure(image: str, message: str) -> Pending:
    text = _PULL_STEPS.sub("", _BACK_OFF.sub("", message))
    text = text.removeprefix(f"{image}: ")
    said = _NAMES.sub("", f": {text}".replace(image, ""))
    cause = next((one for pattern, one in _REGISTRY_ANSWERS if pattern.search(said)), None)
    if cause is None:
        return Pending(Cause.IMAGE_UNAVAILABLE, f"{image}: {text}")
    return Pending(cause, f"{image}: {text}", permanent=True)


def _before_the_job(pod: Json, since: datetime | None) -> Pending:
    """All is well so far: an init container runs, or an image is being pulled."""
    names = [one["name"] for one in init_containers(pod)]
    for number, container in enumerate(init_containers(pod), start=1):
        over = state(container, "terminated")
        if over is None or over.get("exitCode"):
            which = f"init container '{container['name']}' ({number} of {len(names)})"
            if container["name"] == CODE_CONTAINER:
                which = "the fetch of the job's code"
            if running := state(container, "running"):
                started = time_of(running.get("startedAt"))
                return Pending(Cause.SCHEDULE_INIT, f"{which} runs", started)
            if over is not None:
                return Pending(Cause.SCHEDULE_INIT, f"{which} failed", since)
            message = f"image {container['image']} of {which} is being pulled"
            return Pending(Cause.SCHEDULE_IMAGE, message, since)
    begun = condition(pod, "Initialized") or {}
    images = ", ".join(dict.fromkeys(_images_to_come(pod)))
    since = time_of(begun.get("lastTransitionTime")) or since
    return Pending(Cause.SCHEDULE_IMAGE, f"image {images} is being pulled", since)


def _images_to_come(pod: Json) -> Iterator[str]:
    return (str(one["image"]) for one in containers(pod) if state(one, "waiting") is not None)


def _created(item: Json) -> datetime | None:
    return time_of(item["metadata"].get("creationTimestamp"))
