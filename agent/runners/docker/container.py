"""Reading the engine's description of a container."""

from datetime import datetime
from typing import Any, Final

from agent.model.work import lease_from_labels
from agent.ports.runner import Ending, Workload, WorkloadState
from agent.runners.signals import signal_of

#: How the engine writes 'never'.
_NEVER: Final = "0001-"
_LIVE: Final = frozenset({"running", "paused", "restarting"})


def labels_of(inspected: dict[str, Any]) -> dict[str, str]:
    """Labels of an inspected container."""
    return dict((inspected.get("Config") or {}).get("Labels") or {})


def workload_of(inspected: dict[str, Any]) -> Workload | None:
    """A workload of ours; `None` when its labels are not.

    A start that the engine refused leaves it CREATED, since nothing of it ever ran.
    """
    lease = lease_from_labels(labels_of(inspected))
    if lease is None:
        return None
    started = started_at(inspected)
    state = WorkloadState.EXITED
    if started is None:
        state = WorkloadState.CREATED
    elif is_running(inspected):
        state = WorkloadState.RUNNING
    return Workload(
        name=str(inspected["Name"]).lstrip("/"),
        id=str(inspected["Id"]),
        lease=lease,
        state=state,
        started_at=started,
        ending=ending_of(inspected) if state is WorkloadState.EXITED else None,
    )


def ending_of(inspected: dict[str, Any]) -> Ending:
    """How an exited container ended."""
    state = inspected["State"]
    code = int(state["ExitCode"])
    return Ending(
        exit_code=code,
        out_of_memory=bool(state.get("OOMKilled")),
        signal=signal_of(code),
        error=state.get("Error") or None,
        finished_at=_time(state.get("FinishedAt")),
    )


def is_running(inspected: dict[str, Any]) -> bool:
    """Whether its processes live."""
    return inspected["State"].get("Status") in _LIVE


def started_at(inspected: dict[str, Any]) -> datetime | None:
    """When it was started, if ever."""
    return _time(inspected["State"].get("StartedAt"))


def _time(text: str | None) -> datetime | None:
    if not text or text.startswith(_NEVER):
        return None
    return datetime.fromisoformat(text)
