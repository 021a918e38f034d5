"""A runner that plays scripts, for tests of everything above it.

`ScriptedEngine` is the far end: it holds the workloads and outlives runners, as a Docker
engine outlives an agent. `ScriptedRunner` speaks to it through the port and keeps nothing
that matters, so a second one on the same engine is an agent that came back. The
conformance suite runs against it as it does against the real runners.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.errors import FencedError, JobError, LaunchError, PolicyError
from agent.model.work import LABEL_CONTROL_PLANE, Lease, lease_from_labels
from agent.ports.runner import (
    AlreadyStartedError,
    Ending,
    LogPiece,
    RunRequest,
    Workload,
    WorkloadState,
)
from agent.testing.gates import Gate, Gates

_KILLED: Final = 137
_TERMINATED: Final = 143
_CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Play:
    """What one workload does, and what goes wrong with it."""

    #: Printed right after the start.
    output: bytes = b""
    exit_code: int = 0
    #: Runs on after its output until `ScriptedEngine.release` or a stop.
    waits: bool = False
    ignores_term: bool = False
    out_of_memory: bool = False
    #: Raised by `create`; nothing was created.
    create_error: LaunchError | None = None
    #: Raised by `start`; nothing was started.
    start_error: LaunchError | None = None
    #: `start` takes effect and its answer is lost: it raises `LOST_ENGINE`.
    start_answer_cut: bool = False
    #: Bytes at the head of the log that the engine no longer has.
    log_lost: int = 0
    #: The log never ends and yields nothing more after the output.
    log_hangs: bool = False


@dataclass
class _Running:
    """A workload inside the engine."""

    play: Play
    request: RunRequest
    id: str
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

    def seen(self) -> Workload:
        state = WorkloadState.EXITED if self.ending else WorkloadState.RUNNING
        if self.started_at is None:
            state = WorkloadState.CREATED
        lease = lease_from_labels(self.request.labels) or self.request.lease
        name = self.request.name
        return Workload(name, self.id, lease, state, self.started_at, self.ending)


class ScriptedEngine:
    """The far end: workloads, their scripts, and a record of what was asked."""

    def __init__(self, play: Play | None = None) -> None:
        #: For workloads without a play of their own.
        self.default = play or Play()
        #: By workload name.
        self.plays: dict[str, Play] = {}
        #: Every call that reached the engine: (`create`, name), (`start`, name), …
        self.calls: list[tuple[str, str]] = []
        #: Requests of all creations that took effect, in order.
        self.created: list[RunRequest] = []
        #: Seconds that the last `stop` gave, by workload name.
        self.graces: dict[str, float] = {}
        self.workloads: dict[str, _Running] = {}
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
        """Let a waiting job end as its play says."""
        job = self.workloads[name]
        job.end(_ending(job.play))

    def write(self, name: str, data: bytes) -> None:
        """Print more."""
        job = self.workloads[name]
        job.log += data
        job.touch()

    def kill(self, name: str, number: int = 9) -> None:
        """End a job by a signal that nobody asked for."""
        self.workloads[name].end(Ending(128 + number, signal=number))

    def vanish(self, name: str) -> None:
        """Remove a workload behind everybody's back."""
        job = self.workloads.pop(name)
        job.gone = True
        job.touch()

    def go_away(self) -> None:
        """Stop answering; running jobs run on, as with live restore."""
        self._away = True
        for job in self.workloads.values():
            job.touch()

    def come_back(self) -> None:
        """LeaseStatus again."""
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

    def begin(self, job: _Running) -> None:
        """Run a workload's play."""
        self._starts[job.request.name] += 1
        job.started_at = datetime.now(UTC)
        job.log += job.play.output
        job.touch()
        if not job.play.waits:
            job.end(_ending(job.play))


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

    def check(self, arguments: dict[str, Any]) -> None:
        """See the port; only the names in `refused` are not allowed."""
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
        play = engine.plays.get(request.name, engine.default)
        if play.create_error is not None:
            raise play.create_error
        number = len(engine.created) + 1
        job = _Running(play, request, f"scripted-{number:04d}")
        engine.workloads[request.name] = job
        engine.created.append(request)
        return job.seen()

    async def start(self, workload: Workload) -> Workload:
        """See the port."""
        await self._engine.reach("start", workload.name)
        job = self._job(workload)
        if job.started_at is not None:
            raise AlreadyStartedError(f"'{workload.name}' has started already.")
        if job.play.start_error is not None:
            raise job.play.start_error
        self._engine.begin(job)
        if job.play.start_answer_cut:
            message = f"The answer to the start of '{workload.name}' was cut."
            raise JobError(Cause.LOST_ENGINE, message)
        return replace(job.seen(), state=WorkloadState.RUNNING, ending=None)

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

    async def logs(self, workload: Workload, offset: int) -> AsyncGenerator[LogPiece, None]:
        """See the port."""
        job = self._job(workload)
        position = max(offset, job.play.log_lost)
        missing = position - offset
        while True:
            self._engine.answer()
            changed = job.changed
            data = bytes(job.log[position : position + _CHUNK])
            if data:
                yield LogPiece(position, data, missing)
                position, missing = position + len(data), 0
            elif (job.ending or job.gone) and not job.play.log_hangs:
                return
            else:
                await changed.wait()

    async def wait(self, workload: Workload) -> Ending:
        """See the port."""
        job = self._job(workload)
        while True:
            self._engine.answer()
            if job.gone:
                raise _vanished(workload)
            if job.ending is not None:
                return job.ending
            await job.changed.wait()

    async def stop(self, workload: Workload, grace: float) -> None:
        """See the port; `grace` is recorded and not waited for."""
        await self._engine.reach("stop", workload.name)
        self._engine.graces[workload.name] = grace
        job = self._engine.workloads.get(workload.name)
        if job is None or job.started_at is None:
            return
        stubborn = job.play.ignores_term
        code = _KILLED if stubborn else _TERMINATED
        job.end(Ending(code, signal=code - 128))

    async def destroy(self, workload: Workload) -> None:
        """See the port."""
        await self._engine.reach("destroy", workload.name)
        job = self._engine.workloads.get(workload.name)
        if job is not None and job.id == workload.id:
            self._engine.vanish(workload.name)

    def _is_mine(self, job: _Running) -> bool:
        return job.request.labels.get(LABEL_CONTROL_PLANE) == self._control_plane_id

    def _job(self, workload: Workload) -> _Running:
        self._engine.answer()
        job = self._engine.workloads.get(workload.name)
        if job is None or job.id != workload.id:
            raise _vanished(workload)
        return job


def _adopted(existing: _Running, request: RunRequest) -> Workload:
    theirs = lease_from_labels(existing.request.labels)
    ours = request.labels.get(LABEL_CONTROL_PLANE)
    same_plane = existing.request.labels.get(LABEL_CONTROL_PLANE) == ours
    if theirs is None or not same_plane or _attempt(theirs) != _attempt(request.lease):
        message = f"The name '{request.name}' is taken by a workload that is not ours."
        raise JobError(Cause.START_FAILED, message, hint="Remove it, then retry the item.")
    return existing.seen()


def _is_void(found: Workload, wanted: Lease) -> bool:
    if found.lease.epoch > wanted.epoch:
        raise FencedError(f"'{found.name}' was created for a later grant.")
    return found.state is WorkloadState.CREATED and found.lease.epoch < wanted.epoch


def _attempt(lease: Lease) -> tuple[str, int]:
    return lease.item_id, lease.attempt


def _ending(play: Play) -> Ending:
    if play.out_of_memory:
        return Ending(_KILLED, out_of_memory=True, signal=9)
    return Ending(play.exit_code)


def _vanished(workload: Workload) -> JobError:
    message = f"'{workload.name}' vanished without an exit code."
    return JobError(Cause.LOST_WORKLOAD, message)
