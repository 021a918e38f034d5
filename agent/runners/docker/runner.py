"""Runs jobs as Docker containers; see `agent.ports.runner` for the contract.

Normally two calls are made before a job runs, create and start. A container that this process
did not create is inspected before it is started.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog

from agent.config.execution import DockerRunnerConfig, MountConfig
from agent.docker.client import Engine, EngineResponse
from agent.docker.errors import (
    EngineError,
    EngineRefusedError,
    EngineUnavailableError,
    is_lost_within,
    refusal,
)
from agent.docker.sdk import DockerSdk
from agent.model.capacity import Allocation, Demand
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.names import CONTAINERS
from agent.model.spec import Json, LaunchSpec
from agent.model.work import LABEL_CONTROL_PLANE, LABEL_ENGINE_MARKER, Image, Lease
from agent.ports.runner import (
    Ended,
    LogPiece,
    LogPosition,
    NeverStarted,
    Progress,
    Running,
    RunRequest,
    Started,
    StartResult,
    StartUnknown,
    Workload,
    WorkloadState,
)
from agent.runners.docker.container_body import ContainerSettings, container_body
from agent.runners.docker.container_state import (
    Containers,
    is_running,
    labels_of,
    started_at,
    workload_of,
)
from agent.runners.docker.engine_process import EngineProcess
from agent.runners.docker.log_marks import LogMarks
from agent.runners.docker.logs import Follower
from agent.runners.docker.network import JobNetwork
from agent.runners.docker.options import allowance, read_options
from agent.runners.local import (
    file_paths,
    is_outdated,
    same_attempt,
    write_files,
)

_NOT_MODIFIED: Final = 304
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
#: A name may still be taken by a container that is being removed: tries, and pause in seconds.
_CREATE_TRIES: Final = 5
_CREATE_PAUSE: Final = 0.2
#: Starts that are not sent because the engine cannot be reached.
_START_TRIES: Final = 3
#: Inspections after a start whose response was lost, and seconds between them. A start takes
#: the engine tenths of a second.
_START_LOOKS: Final = 10
_START_PAUSE: Final = 1.0
#: Seconds for the engine to end a container, beyond the grace.
_KILL: Final = 60.0


class DockerRunner:
    """`RunnerPort` for one engine; an async context manager that owns its connections.

    `mounts` are the administrator's, by name. `state_dir` is for marks of logs; without it a
    restarted agent cannot tell how much of a rotated log it has missed. An engine that does not
    answer may come back within `outage_timeout` seconds.
    """

    resource = CONTAINERS

    def __init__(
        self,
        control_plane_id: str,
        config: DockerRunnerConfig,
        threads: Executor,
        *,
        mounts: Mapping[str, MountConfig] | None = None,
        state_dir: Path | None = None,
        outage_timeout: float = 60.0,
    ) -> None:
        self._control_plane_id = control_plane_id
        self._config = config
        self._threads = threads
        self._allowed = allowance(config.allow)
        self._mounts = {} if mounts is None else mounts
        self._state_dir = state_dir
        self._outage_timeout = outage_timeout
        self._engine = Engine(config.host)
        self._sdk = DockerSdk(self._engine, threads)
        self._network = JobNetwork(config, self._engine, self._sdk)
        self._process = EngineProcess(self._engine, control_plane_id)
        self._containers = Containers(self._engine, self._process, outage_timeout)
        #: Ids that this process created and never sent a start request for.
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
        await self._process.close()
        await self._engine.close()
        await asyncio.get_running_loop().run_in_executor(self._threads, self._sdk.close)

    async def ensure_network(self) -> str:
        """Create the job network unless it exists; returns the host's address on it.

        Raises:
            ConfigError: the network of that name cannot be used.
            JobError: `START_FAILED`, `LOST_ENGINE`.
        """
        return await self._network.ensure()

    async def backend_id(self) -> str:
        """See the port."""
        info = (await self._engine.get("/info")).body
        return str(info.get("ID") or info.get("Name"))

    def check(self, arguments: Json, template: Json) -> None:
        """See the port."""
        del template
        empty = RunRequest(
            Lease("", 0, 0), "", {}, Image("", "", reused=True), (), (), {}, arguments,
            Allocation(), Path(),
        )  # fmt: skip
        self._body(empty)

    def demand(self, arguments: dict[str, Any]) -> Demand | None:
        """See the port."""
        return LaunchSpec(resource_args={self.resource: arguments}).demand(self.resource)

    def preview(self, request: RunRequest) -> Json:
        """See the port: the body of the engine's `create`."""
        return self._body(request)

    async def create(self, request: RunRequest) -> Workload:
        """See the port."""
        if self._network.gateway is None:
            await self._network.ensure()
        if request.files:
            await self._in_thread(lambda: write_files(request))
        body, params = self._body(request), {"name": request.name}
        platform = read_options(request.arguments, self._allowed).one("platform")
        if platform is not None:
            params["platform"] = platform
        further = _CREATE_TRIES
        while True:
            further -= 1
            try:
                created = await self._create_or_adopt(request, params, body)
            except EngineUnavailableError:
                # Nothing has run yet: what was created, if anything, is found by its name.
                reachable = await self._engine.wait_until_reachable(self._outage_timeout)
                if not further or not reachable:
                    raise
                continue
            if isinstance(created, Workload):
                return created
            if not further:
                raise created
            await asyncio.sleep(_CREATE_PAUSE)

    async def _create_or_adopt(
        self, request: RunRequest, params: Mapping[str, str], body: Json
    ) -> Workload | JobError:
        """The created or adopted container, or why the next try may succeed.

        Raises:
            EngineUnavailableError: it may have been created.
            JobError: it cannot be created.
        """
        marker = (await self._process.stream()).marker
        labels = {**body["Labels"], LABEL_ENGINE_MARKER: marker}
        answer = await self._engine.call(
            "POST", "/containers/create", params=params, body={**body, "Labels": labels}
        )
        if answer.ok:
            container = str(answer.body["Id"])
            self._fresh.add(container)
            return Workload(request.name, container, request.lease, WorkloadState.CREATED)
        error = _refused(f"The container '{request.name}' could not be created", answer)
        if is_lost_within(answer.message):
            return error
        if answer.status != _CONFLICT:
            raise error
        existing = await self._containers.inspect(request.name)
        if existing is None:
            return error
        adopted = _reuse_existing(existing, request)
        unstarted = adopted.state is WorkloadState.CREATED
        other_process = labels_of(existing).get(LABEL_ENGINE_MARKER) != marker
        if not is_outdated(adopted, request.lease) and not (unstarted and other_process):
            return adopted
        await self._remove_unstarted(adopted)
        return error

    async def start(self, workload: Workload) -> StartResult:
        """See the port. The start time is this machine's clock."""
        inspect_first = workload.id not in self._fresh
        # Sent without an inspection at most once, also if this call is cancelled half-way.
        self._fresh.discard(workload.id)
        failure: JobError | None = None
        for _ in range(_START_TRIES):
            try:
                if inspect_first and (earlier := await self._earlier_start(workload)) is not None:
                    return earlier
                return await self._send_start(workload)
            except EngineError as error:
                failure = error
            except JobError as error:
                return NeverStarted(error)
            inspect_first = True
            if not await self._engine.wait_until_reachable(self._outage_timeout):
                break
        message = f"{failure} The container '{workload.name}' was not started."
        return NeverStarted(JobError(Cause.START_FAILED, message))

    async def _send_start(self, workload: Workload) -> StartResult:
        """One request.

        Raises:
            EngineError: it was not sent, or it was refused for a reason that is removed now.
        """
        stream = await self._process.stream()
        # Noted before the request: an end that this stream reports belongs to this start.
        stream.started.add(workload.id)
        try:
            answer = await self._engine.call("POST", f"/containers/{workload.id}/start")
        except EngineUnavailableError as error:
            if not error.sent:
                raise
            return await self._find_start(workload, str(error))
        if not answer.ok:
            stream.started.discard(workload.id)
        if answer.ok:
            now = datetime.now(UTC)
            return Started(replace(workload, state=WorkloadState.RUNNING, started_at=now))
        if answer.status == _NOT_FOUND and "network" in answer.message:
            # Somebody pruned the network while no container was on it.
            await self._network.ensure()
            raise EngineRefusedError(self._engine.address.given, answer.status, answer.message)
        if answer.status == _NOT_MODIFIED or is_lost_within(answer.message):
            return await self._find_start(workload, answer.message)
        return NeverStarted(
            _refused(f"The container '{workload.name}' could not be started", answer)
        )

    async def settle(self, workload: Workload) -> StartResult:
        """See the port: inspects until the engine shows a start, for as long as one takes."""
        return await self._find_start(
            workload, f"The agent ended while it started '{workload.name}'."
        )

    async def _find_start(self, workload: Workload, why: str) -> StartResult:
        """What became of a start that was sent: it is not sent again.

        An engine that is killed in the middle of a start may have run the job and still report
        `created`, so only a start or a refusal that it shows is believed.
        """
        log = structlog.get_logger().bind(workload=workload.name)
        log.warning("the response to a start was lost; inspecting", error=why)
        await self._engine.wait_until_reachable(self._outage_timeout)
        for _ in range(_START_LOOKS):
            with suppress(EngineError):
                found = await self._earlier_start(workload, refused=True)
                if found is not None:
                    return found
            await asyncio.sleep(_START_PAUSE)
        return StartUnknown(Cause.LOST_ENGINE, f"{why} The job may have been started.")

    async def _earlier_start(
        self, workload: Workload, *, refused: bool = False
    ) -> StartResult | None:
        """What an earlier start led to; `None` if the engine shows none.

        Inspected before each start that is not the first: the engine would run an exited
        container a second time. `refused`: a refusal that the engine recorded is a result, too.
        """
        inspected = await self._containers.inspect(workload.id)
        if inspected is None:
            message = f"the container '{workload.name}' has been removed"
            return StartUnknown(Cause.LOST_WORKLOAD, message)
        if started_at(inspected) is not None:
            return Started(workload_of(inspected) or workload, before=True)
        error = str(inspected["State"].get("Error") or "")
        if refused and error and not is_lost_within(error):
            what = f"The container '{workload.name}' could not be started"
            return NeverStarted(refusal(what, 0, error))
        return None

    async def watch(self, workload: Workload) -> AsyncGenerator[Progress, None]:
        """See the port. A started container runs at once, so it is never pending."""
        if workload.started_at is not None:
            yield Running(workload.started_at)
        yield Ended(await self._containers.wait(workload))

    async def find(self, name: str) -> Workload | None:
        """See the port; a foreign container of that name is not found."""
        inspected = await self._containers.inspect(name)
        if inspected is None or not self._is_ours(inspected):
            return None
        return workload_of(inspected)

    async def owned(self) -> list[Workload]:
        """See the port."""
        filters = {"label": [f"{LABEL_CONTROL_PLANE}={self._control_plane_id}"]}
        params = {"all": "1", "filters": json.dumps(filters)}
        listed = await self._engine.get("/containers/json", params)
        found = [await self._containers.inspect(str(entry["Id"])) for entry in listed.rows]
        workloads = [workload_of(inspected) for inspected in found if inspected is not None]
        return [workload for workload in workloads if workload is not None]

    async def logs(
        self, workload: Workload, position: LogPosition
    ) -> AsyncGenerator[LogPiece, None]:
        """See the port."""

        async def running() -> bool:
            stream = await self._process.stream()
            if stream.has_seen_end(workload.id):
                return False
            inspected = await self._containers.inspect(workload.id)
            return inspected is not None and is_running(inspected)

        async def whole() -> bool:
            """An engine that is away reads no output; what it had read may be lost with it."""
            stream = await self._process.stream()
            if workload.id in stream.started and stream.has_seen_end(workload.id):
                return True
            inspected, marker = await self._containers.inspect(workload.id), stream.marker
            return inspected is None or labels_of(inspected).get(LABEL_ENGINE_MARKER) == marker

        follower = Follower(
            self._engine,
            workload.id,
            LogMarks(self._marks_file(workload)),
            self._threads,
            running,
            whole,
            self._outage_timeout,
        )
        async with aclosing(follower.pieces(position.skip)) as pieces:
            async for piece in pieces:
                yield piece

    async def stop(self, workload: Workload, grace: float) -> None:
        """See the port. The engine sends SIGTERM, then SIGKILL after `grace` seconds."""
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
        params = {"force": "1", "v": "1"}
        try:
            answer = await self._engine.call("DELETE", f"/containers/{workload.id}", params=params)
        except EngineUnavailableError:
            if not await self._engine.wait_until_reachable(self._outage_timeout):
                raise
            answer = await self._engine.call("DELETE", f"/containers/{workload.id}", params=params)
        if not answer.ok and answer.status not in {_NOT_FOUND, _CONFLICT}:
            message = f"The container '{workload.name}' could not be removed: {answer.message}."
            raise JobError(Cause.INTERNAL, message)
        self._process.forget(workload.id)
        marks = self._marks_file(workload)
        if marks is not None:
            await self._in_thread(lambda: marks.unlink(missing_ok=True))

    async def _remove_unstarted(self, workload: Workload) -> None:
        """Without force: the engine refuses if it runs, and a delayed start finds nothing."""
        self._fresh.discard(workload.id)
        answer = await self._engine.call("DELETE", f"/containers/{workload.id}", params={"v": "1"})
        if not answer.ok and answer.status not in {_NOT_FOUND, _CONFLICT}:
            raise _refused(f"The container '{workload.name}' could not be replaced", answer)

    def _body(self, request: RunRequest) -> dict[str, Any]:
        options = read_options(request.arguments, self._allowed)
        mounts = [_bind(str(path), target) for target, path in file_paths(request).items()]
        for name in request.mounts:
            mount = self._mounts[name]
            mounts.append(_bind(str(mount.source), mount.target, read_only=mount.read_only))
        settings = ContainerSettings(
            self._config, self._network.mode, self._network.gateway, mounts
        )
        return container_body(request, options, settings)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _is_ours(self, inspected: dict[str, Any]) -> bool:
        return labels_of(inspected).get(LABEL_CONTROL_PLANE) == self._control_plane_id

    def _marks_file(self, workload: Workload) -> Path | None:
        return self._state_dir / f"{workload.name}.marks" if self._state_dir else None


def _reuse_existing(existing: dict[str, Any], request: RunRequest) -> Workload:
    workload = workload_of(existing)
    if workload is None or not same_attempt(labels_of(existing), request.labels):
        message = f"The name '{request.name}' is taken by another container."
        hint = f"Remove it (`docker rm {request.name}`), then retry the item."
        raise JobError(Cause.START_FAILED, message, hint=hint)
    return workload


def _refused(what: str, answer: EngineResponse) -> JobError:
    return refusal(what, answer.status, answer.message)


def _bind(source: str, target: str, *, read_only: bool = True) -> Json:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}
