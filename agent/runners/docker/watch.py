"""Waiting for a container's end, across restarts of its engine."""

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
from agent.ports.runner import Ending, Workload
from agent.runners.docker.container import ending_of, is_running, started_at

if TYPE_CHECKING:
    from docker.api.client import APIClient

_NOT_FOUND: Final = 404
#: An engine that stops ends its containers at about the time at which we notice.
_SLACK: Final = timedelta(seconds=2)
#: An engine that kills does so at once.
_SHORTLY: Final = timedelta(seconds=10)
#: Seconds before a wait is repeated that ended under a running container.
_AGAIN: Final = 0.2
#: How the engine's init (tini) reports, as the job's only output, that it could not run the
#: command, and the exit codes that it then ends with.
_INIT: Final = b"[FATAL tini"
_INIT_CODES: Final = frozenset({1, 126, 127})
#: Bytes of a log in which the engine's init would tell of its failure.
_FIRST_LINES: Final = 4096


class Watcher:
    """Waits on one engine. It may stay away for `patience` seconds."""

    def __init__(self, engine: Engine, sdk: DockerSdk, patience: float) -> None:
        self._engine = engine
        self._sdk = sdk
        self._patience = patience

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
        """How it ended.

        An engine without live restore ends its containers when it stops. Such an end is
        nobody's exit code: it is `LOST_ENGINE`, whatever the code.

        Raises:
            JobError: `LOST_ENGINE`, `LOST_WORKLOAD`, `START_ENTRYPOINT`, `IMAGE_PLATFORM`.
        """
        away_since: datetime | None = None
        while True:
            try:
                inspected = await self._ended(workload)
                break
            except EngineError:
                away_since = away_since or datetime.now(UTC)
                if not await self._engine.wait_until_reachable(self._patience):
                    raise
        if inspected is None:
            raise _vanished(workload, engine_was_away=away_since is not None)
        if started_at(inspected) is None:
            message = f"The container '{workload.name}' was never started."
            raise JobError(Cause.LOST_WORKLOAD, message)
        ending = ending_of(inspected)
        if away_since is not None and await self._ended_by_engine(ending, away_since):
            raise _ended_with_engine(workload, ending)
        if _may_be_memory(ending, inspected) and not await self._was_killed(workload, ending):
            return replace(ending, out_of_memory=True)
        if ending.exit_code in _INIT_CODES:
            failure = init_failure(workload.name, await self._first_lines(workload))
            if failure is not None:
                raise failure
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
        """Whether somebody had the engine send it a signal, shortly before its end."""
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


def _may_be_memory(ending: Ending, inspected: dict[str, Any]) -> bool:
    """A SIGKILL in a container with a limit, of which the engine does not say what it was.

    The kernel's notice of a kill for want of memory reaches the engine by a way of its own,
    and is lost at times: in two of 32 on engine 26.1, four at once.
    """
    limited = bool((inspected.get("HostConfig") or {}).get("Memory"))
    return limited and ending.signal == signal.SIGKILL and not ending.out_of_memory


def _vanished(workload: Workload, *, engine_was_away: bool) -> JobError:
    if engine_was_away:
        message = f"The container engine came back without the container '{workload.name}'."
        return JobError(Cause.LOST_ENGINE, message)
    message = f"The container '{workload.name}' was removed before its end was seen."
    hint = "See who else manages containers on that machine."
    return JobError(Cause.LOST_WORKLOAD, message, hint=hint)


def _ended_with_engine(workload: Workload, ending: Ending) -> JobError:
    message = (
        f"The container engine was stopped under the container '{workload.name}' "
        f"(exit code {ending.exit_code} seen afterwards)."
    )
    hint = "Start the job again; with `live-restore` the engine leaves containers running."
    return JobError(Cause.LOST_ENGINE, message, hint=hint)


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
