"""Reads a container's state from the engine, waits for its end, and classifies how it ended."""

import asyncio
import signal
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from agent.docker.client import Engine
from agent.docker.errors import (
    EngineError,
    EngineRefusedError,
    EngineUnavailableError,
    refusal,
)
from agent.docker.log_frames import LogFrameDecoder
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.work import LABEL_ENGINE_MARKER, lease_from_labels
from agent.ports.runner import Ending, Workload, WorkloadState
from agent.runners.docker.engine_process import Death, EngineProcess, EventStream

_NOT_FOUND: Final = 404
#: Prefix of the engine's timestamp for 'never'.
_NEVER: Final = "0001-"
_LIVE: Final = frozenset({"running", "paused", "restarting"})
#: Exit codes of a shell or init that could not run its command.
_CANNOT_EXECUTE: Final = frozenset({126, 127})
#: Seconds between inspections of a running container: an engine drops events for a reader that
#: is too slow.
_INSPECT_INTERVAL: Final = 60.0
#: Seconds before a call that the engine refused is repeated.
_REPEAT_PAUSE: Final = 0.5
_SIGKILL: Final = str(int(signal.SIGKILL))
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

    def __init__(self, engine: Engine, process: EngineProcess, outage_timeout: float) -> None:
        self._engine = engine
        self._process = process
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

        The exit code is trusted only if one process of the engine saw the container start or
        run, and end. Otherwise the cause is `LOST_ENGINE`.

        Raises:
            EngineError: the engine was unreachable for more than `outage_timeout` seconds.
        """
        away = False
        while True:
            error: EngineError
            error = EngineUnavailableError(self._engine.address.given, "the connection broke")
            try:
                stream = await self._process.stream()
                ending = await self._end_in(stream, workload, away=away)
                if ending is not None:
                    return ending
            except EngineError as failure:
                if not isinstance(failure, EngineUnavailableError):
                    await asyncio.sleep(_REPEAT_PAUSE)
                error = failure
            away = True
            if not await self._engine.wait_until_reachable(self._outage_timeout):
                raise error

    async def _end_in(
        self, stream: EventStream, workload: Workload, *, away: bool
    ) -> Ending | None:
        """How it ended; `None` if the stream breaks before that is known."""
        while True:
            known = workload.id in stream.started or workload.id in stream.running
            death = await stream.death(workload.id, _INSPECT_INTERVAL if known else 0.0)
            if death is not None and known:
                break
            if stream.ended:
                return None
            inspected = await self.inspect(workload.id)
            if inspected is None or not is_running(inspected):
                return await self._found_ended(workload, inspected, away=away)
            stream.running.add(workload.id)
        if death.signals and not await self._process.is_up(stream):
            return None
        inspected = await self.inspect(workload.id)
        if inspected is None:
            return _vanished(workload, engine_was_away=away)
        return await self._explained(workload, inspected, death)

    async def _found_ended(
        self, workload: Workload, inspected: dict[str, Any] | None, *, away: bool
    ) -> Ending:
        """How it ended, when no event told."""
        if inspected is None:
            return _vanished(workload, engine_was_away=away)
        if started_at(inspected) is None:
            message = f"the container '{workload.name}' was never started"
            cause = Cause.LOST_ENGINE if away else Cause.LOST_WORKLOAD
            return Ending(None, cause=cause, message=message)
        marker = labels_of(inspected).get(LABEL_ENGINE_MARKER)
        if not await self._process.saw_start_and_end(workload.id, marker):
            return _ended_with_engine(workload, ending_of(inspected))
        past = await self._process.past(workload.id)
        kills = (event["Actor"]["Attributes"] for event in past if event.get("Action") == "kill")
        signals = frozenset(str(kill.get("signal")) for kill in kills)
        death = Death(int(inspected["State"]["ExitCode"]), signals)
        return await self._explained(workload, inspected, death)

    async def _explained(
        self, workload: Workload, inspected: dict[str, Any], death: Death
    ) -> Ending:
        state = {**inspected["State"], "ExitCode": death.exit_code}
        ending = ending_of({**inspected, "State": state})
        if _may_be_memory(ending, inspected) and _SIGKILL not in death.signals:
            return _out_of_memory(ending)
        if ending.cause is None and ending.exit_code in _INIT_CODES:
            failure = init_failure(workload.name, await self._first_lines(workload))
            if failure is not None:
                return replace(ending, cause=failure.cause, message=str(failure))
        return ending

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
    """Whether this is a SIGKILL without a known cause, in a container with a memory limit.

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
        f"the container engine was restarted between the start of the container "
        f"'{workload.name}' and its end (exit code {ending.exit_code} seen afterwards)"
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
