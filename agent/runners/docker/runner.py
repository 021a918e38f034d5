"""Runs jobs as Docker containers; see `agent.ports.runner` for what it promises.

The usual way costs two calls before a job runs, create and start; an inspection comes before
the start of everything that this process did not create itself.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from agent.config.execution import DockerRunnerConfig
from agent.docker.client import Engine, EngineResponse
from agent.docker.errors import refusal
from agent.docker.sdk import DockerSdk
from agent.model.capacity import Allocation
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.work import LABEL_CONTROL_PLANE, Image, Lease
from agent.ports.runner import (
    AlreadyStartedError,
    Ending,
    LogPiece,
    RunRequest,
    Workload,
    WorkloadState,
)
from agent.runners.docker.arguments import allowance, read_options
from agent.runners.docker.body import Surroundings, container_body
from agent.runners.docker.container import is_running, labels_of, started_at, workload_of
from agent.runners.docker.follow import Follower
from agent.runners.docker.marks import Marks
from agent.runners.docker.network import JobNetwork
from agent.runners.docker.watch import Watcher
from agent.runners.ownership import is_void, same_attempt

_NOT_MODIFIED: Final = 304
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
#: A name that a removal under way still holds: tries, and seconds between them.
_CREATE_TRIES: Final = 5
_CREATE_PAUSE: Final = 0.2
#: Seconds for the engine to end a container, beyond the grace.
_KILL: Final = 60.0


class DockerRunner:
    """`RunnerPort` for one engine; an async context manager that owns its connections.

    `state_dir` holds marks of logs; without it an agent that comes back cannot tell how much
    of a rotated log it has missed. An engine that went away under a job may come back within
    `patience` seconds.
    """

    resource = "local-container"

    def __init__(
        self,
        control_plane_id: str,
        config: DockerRunnerConfig,
        threads: Executor,
        *,
        state_dir: Path | None = None,
        patience: float = 60.0,
    ) -> None:
        self._control_plane_id = control_plane_id
        self._config = config
        self._threads = threads
        self._allowed = allowance(config.allow)
        self._state_dir = state_dir
        self._patience = patience
        self._engine = Engine(config.host)
        self._sdk = DockerSdk(self._engine, threads)
        self._network = JobNetwork(config, self._engine, self._sdk)
        self._watcher = Watcher(self._engine, self._sdk, patience)
        #: Ids that this process created and never sent a start for.
        self._fresh: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; containers are not touched."""
        await self._engine.close()
        await asyncio.get_running_loop().run_in_executor(self._threads, self._sdk.close)

    async def ensure_network(self) -> str:
        """Make the job network unless it is there; the host's address on it.

        Raises:
            ConfigError: a network of that name cannot serve.
            JobError: `START_FAILED`, `LOST_ENGINE`.
        """
        return await self._network.ensure()

    async def backend_id(self) -> str:
        """See the port."""
        info = (await self._engine.get("/info")).body
        return str(info.get("ID") or info.get("Name"))

    def check(self, arguments: dict[str, Any]) -> None:
        """See the port."""
        nobody = RunRequest(
            Lease("", 0, 0), "", {}, Image("", "", reused=True), (), (), {}, arguments, Allocation()
        )
        self._body(nobody)

    async def create(self, request: RunRequest) -> Workload:
        """See the port."""
        if self._network.gateway is None:
            await self._network.ensure()
        body = self._body(request)
        params = {"name": request.name}
        platform = read_options(request.arguments, self._allowed).one("platform")
        if platform is not None:
            params["platform"] = platform
        for _ in range(_CREATE_TRIES):
            answer = await self._engine.call("POST", "/containers/create", params=params, body=body)
            if answer.ok:
                return self._created(request, answer)
            if answer.status != _CONFLICT:
                break
            existing = await self._watcher.inspect(request.name)
            adopted = None if existing is None else _adopted(existing, request)
            if adopted is not None and not is_void(adopted, request.lease):
                return adopted
            if adopted is not None:
                await self._remove_unstarted(adopted)
            await asyncio.sleep(_CREATE_PAUSE)
        raise _refused(f"The container '{request.name}' could not be created", answer)

    async def start(self, workload: Workload) -> Workload:
        """See the port. The start time is this machine's clock."""
        fresh = workload.id in self._fresh
        # Sent at most once without a look, also if this call is cancelled half-way.
        self._fresh.discard(workload.id)
        if not fresh:
            await self._refuse_started(workload)
        answer = await self._start(workload)
        if answer.status == _NOT_FOUND and "network" in answer.message:
            # Somebody pruned the network while no container was on it.
            await self._network.ensure()
            await self._refuse_started(workload)
            answer = await self._start(workload)
        if answer.status == _NOT_MODIFIED:
            raise _already(workload)
        if not answer.ok:
            raise _refused(f"The container '{workload.name}' could not be started", answer)
        return replace(workload, state=WorkloadState.RUNNING, started_at=datetime.now(UTC))

    async def find(self, name: str) -> Workload | None:
        """See the port; a foreign container of that name is not found."""
        inspected = await self._watcher.inspect(name)
        if inspected is None or not self._is_ours(inspected):
            return None
        return workload_of(inspected)

    async def owned(self) -> list[Workload]:
        """See the port."""
        filters = {"label": [f"{LABEL_CONTROL_PLANE}={self._control_plane_id}"]}
        params = {"all": "1", "filters": json.dumps(filters)}
        listed = await self._engine.get("/containers/json", params)
        found = [await self._watcher.inspect(str(entry["Id"])) for entry in listed.rows]
        workloads = [workload_of(inspected) for inspected in found if inspected is not None]
        return [workload for workload in workloads if workload is not None]

    async def logs(self, workload: Workload, offset: int) -> AsyncGenerator[LogPiece, None]:
        """See the port."""

        async def running() -> bool:
            inspected = await self._watcher.inspect(workload.id)
            return inspected is not None and is_running(inspected)

        follower = Follower(
            self._engine,
            workload.id,
            Marks(self._marks_file(workload)),
            self._threads,
            running,
            self._patience,
        )
        async with aclosing(follower.pieces(offset)) as pieces:
            async for piece in pieces:
                yield piece

    async def wait(self, workload: Workload) -> Ending:
        """See the port.

        Raises:
            JobError: also `START_ENTRYPOINT` and `IMAGE_PLATFORM`, when the engine's init
                could not run the command.
        """
        return await self._watcher.wait(workload)

    async def stop(self, workload: Workload, grace: float) -> None:
        """See the port."""
        seconds = math.ceil(grace)
        answer = await self._engine.call(
            "POST",
            f"/containers/{workload.id}/stop",
            params={"t": str(seconds)},
            limit=seconds + _KILL,
        )
        if not answer.ok and answer.status not in {_NOT_MODIFIED, _NOT_FOUND}:
            message = f"The container '{workload.name}' could not be stopped: {answer.message}."
            raise JobError(Cause.INTERNAL, message)

    async def destroy(self, workload: Workload) -> None:
        """See the port."""
        self._fresh.discard(workload.id)
        answer = await self._engine.call(
            "DELETE", f"/containers/{workload.id}", params={"force": "1", "v": "1"}
        )
        if not answer.ok and answer.status not in {_NOT_FOUND, _CONFLICT}:
            message = f"The container '{workload.name}' could not be removed: {answer.message}."
            raise JobError(Cause.INTERNAL, message)
        marks = self._marks_file(workload)
        if marks is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, lambda: marks.unlink(missing_ok=True))

    def _created(self, request: RunRequest, answer: EngineResponse) -> Workload:
        container = str(answer.body["Id"])
        self._fresh.add(container)
        return Workload(request.name, container, request.lease, WorkloadState.CREATED)

    async def _remove_unstarted(self, workload: Workload) -> None:
        """Without force: the engine refuses if it runs, and a late start finds nothing."""
        self._fresh.discard(workload.id)
        answer = await self._engine.call("DELETE", f"/containers/{workload.id}", params={"v": "1"})
        if not answer.ok and answer.status not in {_NOT_FOUND, _CONFLICT}:
            raise _refused(f"The container '{workload.name}' could not be replaced", answer)

    async def _start(self, workload: Workload) -> EngineResponse:
        return await self._engine.call("POST", f"/containers/{workload.id}/start")

    async def _refuse_started(self, workload: Workload) -> None:
        """Look before starting: an exited container would run a second time."""
        inspected = await self._watcher.inspect(workload.id)
        if inspected is None:
            message = f"The container '{workload.name}' has been removed."
            raise JobError(Cause.LOST_WORKLOAD, message)
        if started_at(inspected) is not None:
            raise _already(workload)

    def _body(self, request: RunRequest) -> dict[str, Any]:
        options = read_options(request.arguments, self._allowed)
        around = Surroundings(self._config, self._network.mode, self._network.gateway)
        return container_body(request, options, around)

    def _is_ours(self, inspected: dict[str, Any]) -> bool:
        return labels_of(inspected).get(LABEL_CONTROL_PLANE) == self._control_plane_id

    def _marks_file(self, workload: Workload) -> Path | None:
        return self._state_dir / f"{workload.name}.marks" if self._state_dir else None


def _adopted(existing: dict[str, Any], request: RunRequest) -> Workload:
    workload = workload_of(existing)
    if workload is None or not same_attempt(labels_of(existing), request.labels):
        message = f"The name '{request.name}' is taken by a container that is not ours."
        hint = f"Remove it (`docker rm {request.name}`), then retry the item."
        raise JobError(Cause.START_FAILED, message, hint=hint)
    return workload


def _refused(what: str, answer: EngineResponse) -> JobError:
    return refusal(what, answer.status, answer.message)


def _already(workload: Workload) -> AlreadyStartedError:
    message = f"The container '{workload.name}' has been started before; it is not started again."
    return AlreadyStartedError(message)
