"""Fields of Jobs and pods, as the Kubernetes API has them. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from agent.model.spec import Json

#: Reasons of a waiting container that say no more than that it waits.
ON_ITS_WAY: Final = frozenset({None, "", "ContainerCreating", "PodInitializing"})
#: Name of the init container that fetches a job's code. What it writes is not the job's log.
CODE_CONTAINER: Final = "launch-code"
_UNREAD: Final = frozenset({"managedFields"})
_OF_A_CONTAINER: Final = frozenset({"name", "restartPolicy"})
_OVER: Final = frozenset({"Succeeded", "Failed"})


def lean(item: Json) -> Json:
    """An object without what nobody here reads: most of a pod, and of a Job its template.

    A copy; custom resources only lose the record of who wrote which field.
    """
    metadata = {key: value for key, value in item["metadata"].items() if key not in _UNREAD}
    found = {**item, "metadata": metadata}
    spec = item.get("spec")
    if isinstance(spec, dict) and item.get("apiVersion", "batch/v1") == "batch/v1":
        found["spec"] = {key: value for key, value in spec.items() if key != "template"}
    return found


def lean_pod(pod: Json) -> Json:
    """As `lean`, for a pod."""
    spec = pod["spec"]
    kept = {key: spec[key] for key in ("nodeName", "restartPolicy") if key in spec}
    for key in ("initContainers", "containers"):
        given = spec.get(key) or ()
        kept[key] = [{part: each[part] for part in _OF_A_CONTAINER & each.keys()} for each in given]
    return {**lean(pod), "spec": kept}


def phase(pod: Json) -> str:
    """`Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`."""
    return str(status(pod).get("phase"))


def is_over(pod: Json) -> bool:
    """Whether none of its containers runs or will run again."""
    return phase(pod) in _OVER


def is_deleted(item: Json) -> bool:
    """Whether somebody has asked for its deletion."""
    return "deletionTimestamp" in item["metadata"]


def status(item: Json) -> Json:
    """The part that the cluster writes; may be empty."""
    return item.get("status") or {}


def condition(item: Json, kind: str, wanted: str = "True") -> Json | None:
    """A condition with a status, if it has that."""
    conditions: Sequence[Json] = status(item).get("conditions") or ()
    return next(
        (one for one in conditions if one["type"] == kind and one.get("status") == wanted), None
    )


def sentence(found: Json) -> str:
    """A condition in words, without a full stop."""
    return str(found.get("message") or found.get("reason") or "no reason given").strip(" .")


def containers(pod: Json) -> Sequence[Any]:
    """States of the containers proper."""
    found: Sequence[Any] = status(pod).get("containerStatuses") or ()
    return found


def init_containers(pod: Json) -> list[Json]:
    """States of the init containers that end before the others begin, in their order."""
    specs = pod["spec"].get("initContainers") or ()
    sidecars = {one["name"] for one in specs if _restarts(one)}
    found = status(pod).get("initContainerStatuses") or ()
    return [one for one in found if one["name"] not in sidecars]


def all_containers(pod: Json) -> list[str]:
    """Names of the containers whose output is the log, init containers first, started or not."""
    spec = pod["spec"]
    found = (*(spec.get("initContainers") or ()), *spec["containers"])
    return [container["name"] for container in found if container["name"] != CODE_CONTAINER]


def started_containers(pod: Json) -> list[str]:
    """Those of `all_containers` that run or ran."""
    return [
        name
        for name, states in _states_by_name(pod).items()
        if states.keys() & {"running", "terminated"} and name != CODE_CONTAINER
    ]


def has_terminated(pod: Json, name: str) -> bool:
    """Whether a container has ended, where its pod starts none again."""
    restarts = {one["name"] for one in pod["spec"].get("initContainers") or () if _restarts(one)}
    never = pod["spec"].get("restartPolicy") == "Never" and name not in restarts
    return never and "terminated" in _states_by_name(pod).get(name, {})


def _restarts(init_container: Json) -> bool:
    return init_container.get("restartPolicy") == "Always"


def _states_by_name(pod: Json) -> dict[str, Json]:
    return {
        one["name"]: {**(one.get("lastState") or {}), **(one.get("state") or {})}
        for kind in ("initContainerStatuses", "containerStatuses")
        for one in status(pod).get(kind) or ()
    }


def state(container: Json, kind: str) -> Json | None:
    """`waiting`, `running` or `terminated`, if it is that."""
    found: Json | None = (container.get("state") or {}).get(kind)
    return found


def first_start(pod: Json) -> datetime | None:
    """When a container of it first ran; init containers do not count."""
    times = [
        time
        for container in containers(pod)
        for kind in ("running", "terminated")
        if (time := time_of((state(container, kind) or {}).get("startedAt")))
        # 1970 stands for a container that could not be started.
        and time.timestamp() > 0
    ]
    return min(times, default=None)


def time_of(text: str | None) -> datetime | None:
    """An RFC 3339 time."""
    return datetime.fromisoformat(text) if text else None
