"""Reads a container's state from the engine, waits for its end, and classifies how it ended."""

import asyncio
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from agent.docker.client import Engine
from agent.docker.errors import EngineError, EngineRefusedError, refusal
from agent.docker.log_frames import LogFrameDecoder
from agent.docker.sdk import DockerSdk
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.work import lease_from_labels
from agent.ports.runner import Ending, Workload, WorkloadState

if TYPE_CHECKING:
    from docker.api.client import APIClient

_NOT_FOUND: Final = 404
#: Prefix of the engine's timestamp for 'never'.
_NEVER: Final = "0001-"
_LIVE: Final = frozenset({"running", "paused", "restarting"})
#: Exit codes of a shell or init that could not run its command.
_CANNOT_EXECUTE: Final = frozenset({126, 127})
#: An engine that stops ends its containers at about the time at which we notice.
_SLACK: Final = timedelta(seconds=2)
#: An engine that kills does so at once.
_SHORTLY: Final = timedelta(seconds=10)
#: Seconds before repeating a wait that returned while the container still ran.
_AGAIN: Final = 0.2
#: How the engine's init (tini) reports, as the job's only output, that it could not run the
#: command, and the exit codes that it then ends with.
_INIT: Final = b"[FATAL tini"
_INIT_CODES: Final = frozenset({1, 126, 127})
#: Bytes of a log in which the engine's init would report its failure.
_FIRST_LINES: Final = 4096


class Containers:
    """Inspects containers of one engine and waits for their end.

    The engine may be unreachable for `outage_timeout` seconds.
    """

    def __init__(self, engine: Engine, sdk: DockerSdk, outage_timeout: float) -> None:
        self._engine = engine
        self._sdk = sdk
        self._outage_timeout = outage_timeout

    async def inspect(self, name: str) -> dict[str, Any] | None:
        """The engine's description, by name or id.

        Raises:
            JobError: `LOST_ENGINE`, also when it answers with a failure of its own.
        """
        answer = await self._engine.call("GET", f"/containers/{name}/json")
        if answer.status == _NOT_FOUND:
            return None
        if not answer.ok:
            raise EngineRefusedError(self._engine.address.given, answer.status, answer.message)
        return answer.body

    async def wait(self, workload: Workload) -> Ending:
        """Wait until it has ended.

        An engine without live restore ends its containers when it stops. The exit code of
        such an end says nothing about the job: the cause is `LOST_ENGINE`, whatever the code.

        Raises:
            EngineError: the engine was unreachable for more than `outage_timeout` seconds.
        """
        away_since: datetime | None = None
        while True:
            try:
                inspected = await self._ended(workload)
                break
            except EngineError:
                away_since = away_since or datetime.now(UTC)
                if not await self._engine.wait_until_reachable(self._outage_timeout):
                    raise
        if inspected is None:
            return _vanished(workload, engine_was_away=away_since is not None)
        if started_at(inspected) is None:
            message = f"the container '{workload.name}' was never started"
            return Ending(None, cause=Cause.LOST_WORKLOAD, message=message)
        ending = ending_of(inspected)
        if away_since is not None and await self._ended_by_engine(ending, away_since):
            return _ended_with_engine(workload, ending)
        if _may_be_memory(ending, inspected) and not await self._was_killed(workload, ending):
            return _out_of_memory(ending)
        if ending.cause is None and ending.exit_code in _INIT_CODES:
            failure = init_failure(workload.name, await self._first_lines(workload))
            if failure is not None:
                return replace(ending, cause=failure.cause, message=str(failure))
        return ending

    async def _ended(self, workload: Workload) -> dict[str, Any] | None:
        """Its description once it does not run; `None` when it is gone."""
        while True:
            await self._engine.call("POST", f"/containers/{workload.id}/wait", limit=None)
            inspected = await self.inspect(workload.id)
            if inspected is None or not is_running(inspected):
                return inspected
            await asyncio.sleep(_AGAIN)

    async def _ended_by_engine(self, ending: Ending, away_since: datetime) -> bool:
        if ending.finished_at is not None and ending.finished_at < away_since - _SLACK:
            return False
        info = await self._engine.get("/info")
        return not info.body.get("LiveRestoreEnabled")

    async def _was_killed(self, workload: Workload, ending: Ending) -> bool:
        """Whether the engine was asked to send it a signal, shortly before its end."""
        since = (ending.finished_at or datetime.now(UTC)) - _SHORTLY
        filters = {"container": [workload.id], "event": ["kill"]}

        def ask(client: "APIClient") -> bool:
            # The engine reads fractions of seconds; a later `until` would be waited for.
            until = cast("int", datetime.now(UTC).timestamp())
            events = client.events(int(since.timestamp()), until, filters, decode=True)
            try:
                return any(True for _ in events)
            finally:
                events.close()

        return await self._sdk.call(ask)

    async def _first_lines(self, workload: Workload) -> bytes:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1"}
        path = f"/containers/{workload.id}/logs"
        async with self._engine.stream(path, params) as response:
            start = await response.content.read(_FIRST_LINES)
        return b"".join(entry.data for entry in LogFrameDecoder().feed(start))


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
    ending = Ending.from_exit_code(code, _time(state.get("FinishedAt")))
    if state.get("OOMKilled"):
        return _out_of_memory(ending)
    if error := state.get("Error"):
        cause = Cause.START_ENTRYPOINT if code in _CANNOT_EXECUTE else Cause.START_FAILED
        return replace(ending, cause=cause, message=str(error))
    return ending


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


def _out_of_memory(ending: Ending) -> Ending:
    message = "killed because it used more memory than it was given"
    return replace(ending, cause=Cause.RUN_OUT_OF_MEMORY, message=message)


def _may_be_memory(ending: Ending, inspected: dict[str, Any]) -> bool:
    """A SIGKILL in a container with a limit that the engine does not explain.

    The kernel's notice of an out-of-memory kill reaches the engine separately and can be lost
    (2 of 32 runs with four containers in parallel, Docker 26.1).
    """
    limited = bool((inspected.get("HostConfig") or {}).get("Memory"))
    return limited and ending.signal == signal.SIGKILL and ending.cause is None


def _vanished(workload: Workload, *, engine_was_away: bool) -> Ending:
    if engine_was_away:
        message = f"the container engine came back without the container '{workload.name}'"
        return Ending(None, cause=Cause.LOST_ENGINE, message=message)
    message = (
        f"the container '{workload.name}' was removed before its end was seen; check what else "
        "manages containers on that machine"
    )
    return Ending(None, cause=Cause.LOST_WORKLOAD, message=message)


def _ended_with_engine(workload: Workload, ending: Ending) -> Ending:
    message = (
        f"the container engine was stopped under the container '{workload.name}' "
        f"(exit code {ending.exit_code} seen afterwards); with `live-restore` an engine leaves "
        "containers running"
    )
    return replace(ending, cause=Cause.LOST_ENGINE, message=message)


def init_failure(name: str, log: bytes) -> JobError | None:
    """The error behind an exit code of the engine's init, if the log shows that it is one."""
    line = log.rstrip(b"\n")
    if not line.startswith(_INIT) or b"\n" in line:
        return None
    message = line.partition(b"] ")[2].decode("utf-8", "replace")
    if "exec format error" not in message.lower():
        # As the engine itself words it, so that one table reads both.
        message = f"unable to start container process: {message}"
    return refusal(f"'{name}' could not run its command", 0, message)
