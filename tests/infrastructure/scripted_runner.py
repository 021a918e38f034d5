"""A runner whose workloads follow scripts, for tests of everything above the port.

`ScriptedEngine` is the backend: it holds the workloads and outlives runners, as a Docker
engine outlives an agent. `ScriptedRunner` implements the port on it and keeps no state of its
own, so a second one on the same engine is a restarted agent. The engine can also queue, as a
cluster does: a started workload is pending until `place`, may be preempted, and may lose its
node. The conformance suite runs against it as it does against the real runners.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from agent.model.capacity import Demand
from agent.model.cause import Cause
from agent.model.errors import FencedError, JobError, PolicyError
from agent.model.spec import Json, LaunchSpec
from agent.model.work import LABEL_CONTROL_PLANE, Lease, lease_from_labels
from agent.ports.runner import (
    Ended,
    Ending,
    LogPiece,
    LogPosition,
    NeverStarted,
    Pending,
    Progress,
    Running,
    RunRequest,
    Started,
    StartResult,
    StartUnknown,
    Workload,
    WorkloadState,
)
from agent.testing.runner_suite import Scenario
from tests.infrastructure.gates import Gate, Gates

_KILLED: Final = 137
_TERMINATED: Final = 143
_CHUNK: Final = 64 * 1024
#: Requests of one start.
_START_TRIES: Final = 3


@dataclass
class _Job:
    """A workload inside the engine."""

    scenario: Scenario
    request: RunRequest
    id: str
    #: Reasons that it still waits for; `None` before the start.
    waiting: tuple[Pending, ...] | None = None
    accepted_at: datetime | None = None
    starts_lost: int = 0
    started_at: datetime | None = None
    ending: Ending | None = None
    log: bytearray = field(default_factory=bytearray)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False

    def touch(self) -> None:
        """Wake everybody who waits for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = replace(ending, finished_at=datetime.now(UTC))
            self.touch()

    def progress(self) -> Progress | None:
        """Where it is; `None` before its start and when it ended without running."""
        if self.started_at is not None:
            return Running(self.started_at)
        return replace(self.waiting[0], since=self.accepted_at) if self.waiting else None

    def seen(self) -> Workload:
        state = WorkloadState.EXITED if self.ending else WorkloadState.RUNNING
        if self.waiting is None:
            state = WorkloadState.CREATED
        elif self.started_at is None and not self.ending:
            state = WorkloadState.PENDING
        lease = lease_from_labels(self.request.labels) or self.request.lease
        name = self.request.name
        return Workload(name, self.id, lease, state, self.started_at, self.ending)


class _AnswerLostError(Exception):
    """The connection broke before the answer."""


class ScriptedEngine:
    """The backend: workloads, their scripts, and a record of all calls."""

    def __init__(self, scenario: Scenario | None = None, *, queues: bool = False) -> None:
        #: Schedules by itself: the agent counts no resources for it.
        self.queues = queues
        #: For workloads without a scenario of their own.
        self.default = scenario or Scenario()
        #: By workload name.
        self.scenarios: dict[str, Scenario] = {}
        #: Every call that reached the engine: (`create`, name), (`start`, name), …
        self.calls: list[tuple[str, str]] = []
        #: Requests of all creations that took effect, in order.
        self.created: list[RunRequest] = []
        #: Seconds that the last `stop` gave, by workload name.
        self.graces: dict[str, float] = {}
        self.workloads: dict[str, _Job] = {}
        self._starts: defaultdict[str, int] = defaultdict(int)
        self._gates = Gates()
        self._away = False
        self._back = asyncio.Event()

    def starts(self, name: str) -> int:
        """How often a workload really began to run."""
        return self._starts[name]

    def hold(self, call: str) -> AbstractContextManager[Gate]:
        """Hold calls of one kind (`create`, `start`, …): a slow engine."""
        return self._gates.hold(call)

    def release(self, name: str) -> None:
        """Let a waiting job end as its scenario says."""
        job = self.workloads[name]
        job.end(_ending(job.scenario))

    def write(self, name: str, data: bytes) -> None:
        """Print more."""
        job = self.workloads[name]
        job.log += data
        job.touch()

    def place(self, name: str) -> None:
        """End a pending job's present reason to wait; after the last one it runs."""
        job = self.workloads[name]
        job.waiting = (job.waiting or ())[1:]
        if job.waiting:
            job.touch()
        else:
            self._run(job)

    def kill(self, name: str, number: int = 9) -> None:
        """End a job by a signal that nobody asked for."""
        self.workloads[name].end(Ending(128 + number, signal=number))

    def preempt(self, name: str) -> None:
        """Take the machine away from a job, which gets SIGTERM."""
        message = "preempted by a job of higher priority"
        self.workloads[name].end(Ending(_TERMINATED, 15, Cause.PREEMPTED, message))

    def lose_node(self, name: str) -> None:
        """The node under a job stops answering."""
        message = "node 'scripted-1' stopped answering"
        self.workloads[name].end(Ending(None, cause=Cause.LOST_NODE, message=message))

    def vanish(self, name: str) -> None:
        """Remove a workload without a call of the runner."""
        job = self.workloads.pop(name)
        job.gone = True
        job.touch()

    def forget_start(self, name: str) -> None:
        """It ran, and the engine says `created`: as one does that is killed while it starts it."""
        job = self.workloads[name]
        job.waiting = job.started_at = job.accepted_at = job.ending = None

    def go_away(self) -> None:
        """Stop answering; running jobs run on, as with live restore."""
        self._away = True
        for job in self.workloads.values():
            job.touch()

    def come_back(self) -> None:
        """Answer again."""
        self._away = False

    async def reach(self, call: str, name: str) -> None:
        """A call arrives.

        Raises:
            JobError: `LOST_ENGINE` while the engine is away.
        """
        self.answer()
        await self._gates.passed(call)
        self.answer()
        self.calls.append((call, name))

    def answer(self) -> None:
        """Raise while the engine is away.

        Raises:
            JobError: `LOST_ENGINE`.
        """
        if self._away:
            message = "The scripted engine does not answer."
            raise JobError(Cause.LOST_ENGINE, message, hint="Call come_back().")

    def begin(self, job: _Job) -> None:
        """Accept the start of a workload."""
        self._starts[job.request.name] += 1
        job.accepted_at = datetime.now(UTC)
        job.waiting = job.scenario.pending
        if job.waiting:
            job.touch()
        else:
            self._run(job)

    def _run(self, job: _Job) -> None:
        job.waiting = ()
        job.started_at = datetime.now(UTC)
        job.log += job.scenario.output
        job.touch()
        if not job.scenario.waits:
            job.end(_ending(job.scenario))


class ScriptedRunner:
    """`RunnerPort` on a scripted engine."""

    def __init__(
        self,
        engine: ScriptedEngine,
        control_plane_id: str,
        resource: str = "local-container",
        refused: tuple[str, ...] = ("privileged",),
    ) -> None:
        self.resource = resource
        self._engine = engine
        self._control_plane_id = control_plane_id
        self._refused = refused

    async def backend_id(self) -> str:
        """See the port."""
        self._engine.answer()
        return f"scripted-{id(self._engine):x}"

    def check(self, arguments: Json, template: Json) -> None:
        """See the port; only the names in `refused` are not allowed."""
        del template
        for name in arguments:
            if name in self._refused:
                message = f"Resource argument `{name}` is not allowed here."
                raise PolicyError(Cause.POLICY_RESOURCE, message)

    async def create(self, request: RunRequest) -> Workload:
        """See the port."""
        engine = self._engine
        await engine.reach("create", request.name)
        existing = engine.workloads.get(request.name)
        adopted = None if existing is None else _adopted(existing, request)
        if adopted is not None and not _is_void(adopted, request.lease):
            return adopted
        scenario = engine.scenarios.get(request.name, engine.default)
        if scenario.create_error is not None:
            raise scenario.create_error
        number = len(engine.created) + 1
        job = _Job(scenario, request, f"scripted-{number:04d}")
        engine.workloads[request.name] = job
        engine.created.append(request)
        return job.seen()

    def demand(self, arguments: dict[str, Any]) -> Demand | None:
        """See the port; an engine that queues schedules by itself."""
        if self._engine.queues:
            return None
        return LaunchSpec(resource_args={self.resource: arguments}).demand(self.resource)

    def preview(self, request: RunRequest) -> Json:
        """See the port."""
        return {"image": request.image.reference, "argv": [*request.command, *request.args]}

    async def start(self, workload: Workload) -> StartResult:
        """See the port.

        The name is the fence, so a request whose answer was lost is repeated: it finds that
        the job was started, or starts it.
        """
        for _ in range(_START_TRIES):
            try:
                return await self._start(workload)
            except _AnswerLostError:
                continue
            except JobError as error:
                if error.cause in {Cause.LOST_ENGINE, Cause.LOST_WORKLOAD}:
                    return StartUnknown(error.cause, f"{error.message} It may have been started.")
                return NeverStarted(error)
        return StartUnknown(Cause.LOST_ENGINE, "No answer to a start; it may have been started.")

    async def settle(self, workload: Workload) -> StartResult:
        """See the port; an engine that queues takes a name once, so the start is repeated."""
        if self._engine.queues:
            return await self.start(workload)
        await self._engine.reach("settle", workload.name)
        job = self._job(workload)
        if job.waiting is not None:
            return Started(job.seen(), before=True)
        return StartUnknown(Cause.LOST_ENGINE, f"'{workload.name}' may have been started")

    async def _start(self, workload: Workload) -> StartResult:
        await self._engine.reach("start", workload.name)
        job = self._job(workload)
        if job.waiting is not None:
            return Started(job.seen(), before=True)
        if job.scenario.start_error is not None:
            raise job.scenario.start_error
        if job.starts_lost < job.scenario.starts_lost:
            job.starts_lost += 1
            raise _AnswerLostError
        self._engine.begin(job)
        if job.scenario.start_answer_lost:
            raise _AnswerLostError
        seen = job.seen()
        if seen.state is WorkloadState.EXITED:
            seen = replace(seen, state=WorkloadState.RUNNING, ending=None)
        return Started(seen)

    async def find(self, name: str) -> Workload | None:
        """See the port."""
        await self._engine.reach("find", name)
        job = self._engine.workloads.get(name)
        return job.seen() if job and self._is_mine(job) else None

    async def owned(self) -> list[Workload]:
        """See the port."""
        self._engine.answer()
        jobs = self._engine.workloads.values()
        return [job.seen() for job in jobs if self._is_mine(job)]

    async def logs(
        self, workload: Workload, position: LogPosition
    ) -> AsyncGenerator[LogPiece, None]:
        """See the port."""
        job = self._job(workload)
        offset = max(position.skip, job.scenario.log_lost)
        missing = offset - position.skip
        while True:
            self._engine.answer()
            changed = job.changed
            data = bytes(job.log[offset : offset + _CHUNK])
            if data:
                yield LogPiece(LogPosition(skip=offset), data, missing)
                offset, missing = offset + len(data), 0
            elif (job.ending or job.gone) and not job.scenario.log_hangs:
                return
            else:
                await changed.wait()

    async def watch(self, workload: Workload) -> AsyncGenerator[Progress, None]:
        """See the port."""
        shown: Progress | None = None
        try:
            job = self._job(workload)
        except JobError as error:
            if error.cause is not Cause.LOST_WORKLOAD:
                raise
            yield Ended(_vanished(workload))
            return
        while True:
            self._engine.answer()
            changed = job.changed
            progress = job.progress()
            if progress is not None and progress != shown:
                shown = progress
                yield progress
                continue
            if job.ending is not None or job.gone:
                yield Ended(job.ending or _vanished(workload))
                return
            await changed.wait()

    async def stop(self, workload: Workload, grace: float) -> None:
        """See the port; `grace` is recorded and not waited for."""
        await self._engine.reach("stop", workload.name)
        self._engine.graces[workload.name] = grace
        job = self._engine.workloads.get(workload.name)
        if job is None or job.waiting is None:
            return
        if job.started_at is None:
            message = "removed from the backend's queue before it ran"
            job.end(Ending(None, cause=Cause.START_FAILED, message=message))
            return
        stubborn = job.scenario.ignores_term
        code = _KILLED if stubborn else _TERMINATED
        job.end(Ending(code, signal=code - 128))

    async def destroy(self, workload: Workload) -> None:
        """See the port."""
        await self._engine.reach("destroy", workload.name)
        job = self._engine.workloads.get(workload.name)
        if job is not None and job.id == workload.id:
            self._engine.vanish(workload.name)

    def _is_mine(self, job: _Job) -> bool:
        return job.request.labels.get(LABEL_CONTROL_PLANE) == self._control_plane_id

    def _job(self, workload: Workload) -> _Job:
        self._engine.answer()
        job = self._engine.workloads.get(workload.name)
        if job is None or job.id != workload.id:
            message = f"'{workload.name}' vanished without an exit code."
            raise JobError(Cause.LOST_WORKLOAD, message)
        return job


def _adopted(existing: _Job, request: RunRequest) -> Workload:
    theirs = lease_from_labels(existing.request.labels)
    ours = request.labels.get(LABEL_CONTROL_PLANE)
    same_plane = existing.request.labels.get(LABEL_CONTROL_PLANE) == ours
    if theirs is None or not same_plane or _attempt(theirs) != _attempt(request.lease):
        message = f"The name '{request.name}' is taken by a workload that is not ours."
        raise JobError(Cause.START_FAILED, message, hint="Remove it, then retry the item.")
    return existing.seen()


def _is_void(found: Workload, wanted: Lease) -> bool:
    if found.lease.epoch > wanted.epoch:
        raise FencedError(f"'{found.name}' was created for a later lease.")
    return found.state is WorkloadState.CREATED and found.lease.epoch < wanted.epoch


def _attempt(lease: Lease) -> tuple[str, int]:
    return lease.item_id, lease.attempt


def _ending(scenario: Scenario) -> Ending:
    if scenario.out_of_memory:
        message = "killed because it used more memory than it was given"
        return Ending(_KILLED, 9, Cause.RUN_OUT_OF_MEMORY, message)
    return Ending(scenario.exit_code)


def _vanished(workload: Workload) -> Ending:
    message = f"'{workload.name}' vanished without an exit code"
    return Ending(None, cause=Cause.LOST_WORKLOAD, message=message)
