"""A job's pods in words, for people: node, state, and what keeps a pod from running. Pure."""

from collections.abc import Iterator
from typing import Final

from agent.model.spec import Json
from agent.ports.runner import Pod
from agent.runners.kubernetes.fields import (
    ON_ITS_WAY,
    containers,
    is_deleted,
    is_over,
    phase,
    sentence,
    state,
    status,
)
from agent.runners.kubernetes.pending import Observed

#: Pods that are shown of one job, the newest.
_MAX_PODS: Final = 20
_MAX_DETAIL: Final = 300


def shown_pods(observed: Observed) -> tuple[Pod, ...]:
    """The newest pods of a job, in the order of their creation."""
    return tuple(_pod(observed, pod) for pod in observed.pods[-_MAX_PODS:])


def _pod(observed: Observed, pod: Json) -> Pod:
    shown = phase(pod).lower()
    return Pod(
        name=pod["metadata"]["name"],
        node=str(pod["spec"].get("nodeName") or ""),
        state=f"{shown}, being deleted" if is_deleted(pod) and not is_over(pod) else shown,
        details=tuple(text[:_MAX_DETAIL] for text in dict.fromkeys(_details(observed, pod))),
    )


def _details(observed: Observed, pod: Json) -> Iterator[str]:
    if reason := status(pod).get("reason"):
        yield f"{reason}: {sentence(status(pod))}"
    found = containers(pod)
    # When all of its containers have ended, the pod's own end follows at once.
    is_ending = not is_over(pod) and all(state(each, "terminated") for each in found)
    for container in (
        *(status(pod).get("initContainerStatuses") or ()),
        *(() if is_ending else found),
    ):
        yield from _container(container)
    if is_over(pod):
        return
    for condition in status(pod).get("conditions") or ():
        # The other conditions only repeat that containers are starting.
        if condition.get("status") == "False" and condition["type"] == "PodScheduled":
            yield sentence(condition)
        if condition.get("status") == "True" and condition["type"] == "DisruptionTarget":
            yield sentence(condition)
    for reason, warned in observed.warnings.get(pod["metadata"]["uid"], {}).items():
        yield f"{reason}: {warned.message}"
    if (news := observed.news.get(pod["metadata"]["uid"])) is not None:
        yield news.message


def _container(container: Json) -> Iterator[str]:
    name = container["name"]
    if container.get("restartCount"):
        yield f"{name}: started again {container['restartCount']} times"
    if ended := state(container, "terminated"):
        reason = ended.get("reason") or ""
        shown = f" ({reason})" if reason not in {"", "Completed", "Error"} else ""
        yield f"{name}: exit code {ended.get('exitCode')}{shown}"
    waiting = state(container, "waiting") or {}
    if waiting.get("reason") not in ON_ITS_WAY:
        yield f"{name}: {waiting['reason']}"
