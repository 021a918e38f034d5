"""Runs jobs as local processes; see `agent.ports.runner` for the contract.

A job is a folder below the root and, once started, a supervisor that holds a lock on the
folder's status file. All state is in these files: another agent on the same root sees the
same jobs.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from agent.config.execution import ProcessRunnerConfig
from agent.model.capacity import Demand
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.model.names import PROCESSES
from agent.model.spec import Json, LaunchSpec
from agent.model.work import LABEL_CONTROL_PLANE
from agent.ports.runner import (
    Ended,
    Ending,
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
from agent.runners.local import files_folder, is_outdated, same_attempt, write_files
from agent.runners.process.folder import Folder, ProcessSpec, Status, folders
from agent.runners.process.options import (
    NOT_TEXT_HINT,
    check_arguments,
    is_valid_text,
    process_environment,
    variables,
)
from agent.runners.process.processes import (
    Watch,
    follow,
    group_is_empty,
    has_no_space,
    kill_members,
    stop_group,
)
from agent.runners.process.spawn import ProcessLimits, StartedBeforeError, spawn
from agent.system.job_users import JobUser, JobUsers, kill_all
from agent.system.machine import boot_id, is_disk_full
from agent.system.tasks import in_thread

T = TypeVar("T")

#: Seconds between reads while a supervisor has not written its id yet, and how many.
_NEW_PAUSE: Final = 0.01
_NEW_READS: Final = 1000


@dataclass(frozen=True, slots=True)
class _Supervisor:
    """The process that a watch observes."""

    pid: int
    #: Whether it was alive when the watch began: then its session id is certainly the job's.
    was_alive: bool


class ProcessRunner:
    """`RunnerPort` for local processes.

    `environment` is the agent's, of which jobs inherit a few variables; blocking work runs in
    `threads`. `users` are those that jobs run as; without, they run as the agent's user.
    """

    resource = PROCESSES

    def __init__(
        self,
        root: Path,
        control_plane_id: str,
        config: ProcessRunnerConfig,
        threads: Executor,
        environment: Mapping[str, str],
        users: JobUsers | None = None,
    ) -> None:
        self._root = root
        self._control_plane_id = control_plane_id
        self._config = config
        self._threads = threads
        self._environment = environment
        self._limits = ProcessLimits.of(config)
        self._users = users
        #: Supervisors that this process started and has not reaped, by name: until then their
        #: ids cannot be reused.
        self._children: dict[str, int] = {}

    async def backend_id(self) -> str:
        """See the port: the id of the root folder."""
        return await self._in_thread(lambda: _identity(self._root))

    def check(self, arguments: Json, template: Json) -> None:
        """See the port."""
        del template
        check_arguments(arguments)

    def demand(self, arguments: dict[str, Any]) -> Demand | None:
        """See the port."""
        return LaunchSpec(resource_args={self.resource: arguments}).demand(self.resource)

    def preview(self, request: RunRequest) -> Json:
        """See the port: argv, folder and environment."""
        _refuse_unsupported(request)
        spec = _spec_of(request, self._folder(request.name))
        return {
            "argv": list(spec.argv),
            "folder": spec.workdir,
            "environment": self._variables(request, self._users.single if self._users else None),
        }

    async def create(self, request: RunRequest) -> Workload:
        """See the port.

        Raises:
            PolicyError: mounts, or variables that cannot be passed on.
        """
        if self._users is None:
            return await self._in_thread(lambda: self._create(request, None))
        existing = await self._in_thread(self._folder(request.name).spec)
        if existing is not None and existing.uid is not None:
            user = self._users.of(existing.uid)
            return await self._in_thread(lambda: self._create(request, user))
        user = await self._users.take()
        try:
            return await in_thread(self._threads, lambda _: self._create(request, user))
        except BaseException:
            await asyncio.shield(self._users.give_back(user))
            raise

    async def start(self, workload: Workload) -> StartResult:
        """See the port. The status file, created exclusively, prevents a second start."""
        try:
            return await self._in_thread(lambda: self._start(workload))
        except JobError as error:
            return NeverStarted(error)

    async def settle(self, workload: Workload) -> StartResult:
        """See the port. Start again: the status file prevents a second start.

        After a restart of the machine that file may be lost, so nothing is started.
        """
        spec = await self._in_thread(self._folder(workload.name).spec)
        found = await self.find(workload.name)
        created = found is not None and found.state is WorkloadState.CREATED
        if spec is None or not created or spec.boot == boot_id():
            return await self.start(workload)
        message = f"the machine was restarted while '{workload.name}' was being started"
        return StartUnknown(Cause.LOST_WORKLOAD, message)

    async def find(self, name: str) -> Workload | None:
        """See the port. EXITED without an ending: the supervisor vanished."""
        return await self._in_thread(lambda: self._own_workload(self._folder(name)))

    async def owned(self) -> list[Workload]:
        """See the port."""
        return await self._in_thread(self._owned)

    async def logs(
        self, workload: Workload, position: LogPosition
    ) -> AsyncGenerator[LogPiece, None]:
        """See the port."""
        folder = self._folder(workload.name)
        async with (
            self._watching_end(workload.name) as (watch, _),
            aclosing(follow(folder.log, position.skip, watch, self._threads)) as pieces,
        ):
            async for piece in pieces:
                yield piece

    async def watch(self, workload: Workload) -> AsyncGenerator[Progress, None]:
        """See the port. Children that the job left in its process group end with it."""
        if workload.started_at is not None:
            yield Running(workload.started_at)
        name, folder = workload.name, self._folder(workload.name)
        async with self._watching_end(name) as (watch, supervisor):
            if supervisor is not None:
                await watch.wait()
                self._reap(name)
                if not group_is_empty(supervisor.pid):
                    await self._kill(name, supervisor.pid if supervisor.was_alive else None)
        await self._in_thread(lambda: self._kill_user(folder))
        status = await self._in_thread(folder.status)
        ending = _ending(workload.name, status)
        if (
            ending.exit_code
            and ending.signal is None
            and await self._in_thread(lambda: has_no_space(folder.path))
        ):
            message = f"no space was left on the disk of {folder.path}"
            ending = replace(ending, cause=Cause.DISK_FULL, message=message)
        yield Ended(ending)

    async def stop(self, workload: Workload, grace: float) -> None:
        """See the port."""
        name = workload.name
        async with self._watching(self._folder(name)) as (watch, status):
            if status is None:
                return
            if status.alive and status.pid is not None:
                await stop_group(name, status.pid, watch, grace, self._threads)
            elif status.pid is None or not group_is_empty(status.pid):
                # The session id may have been reused: find the processes by the variable only.
                await self._kill(name, None)
            self._reap(name)

    async def destroy(self, workload: Workload) -> None:
        """See the port. An ended job, the normal case, costs one call in a thread."""
        user, gone = await self._in_thread(lambda: self._remove_if_over(workload))
        self._reap(workload.name)
        if not gone:
            await self.stop(workload, 0)
            await self._in_thread(self._folder(workload.name).remove)
        if user is not None and self._users is not None:
            await self._users.give_back(user)

    @asynccontextmanager
    async def _watching_end(self, name: str) -> AsyncIterator[tuple[Watch, _Supervisor | None]]:
        """A watch for the end only; for a child of this process no file has to be read."""
        child = self._children.get(name)
        if child is not None:
            async with Watch(child) as watch:
                yield watch, _Supervisor(child, was_alive=True)
            return
        async with self._watching(self._folder(name)) as (watch, status):
            pid = status.pid if status else None
            yield watch, _Supervisor(pid, was_alive=status.alive) if status and pid else None

    @asynccontextmanager
    async def _watching(self, folder: Folder) -> AsyncIterator[tuple[Watch, Status | None]]:
        """A watch of the right process, and the status that it began with.

        1. The id is read from the status. 2. The supervisor ends, and its id is reused. 3. The
        watch would observe the other process. Hence the second read, after the watch began.
        """
        status = await self._status(folder)
        pid = status.pid if status and status.alive else None
        async with Watch(pid) as watch:
            if pid is not None:
                status = await self._in_thread(folder.status)
                if status is None or not status.alive:
                    watch.set_ended()
            yield watch, status

    async def _status(self, folder: Folder) -> Status | None:
        """The status; that of a new supervisor once it handles signals."""
        for _ in range(_NEW_READS):
            status = await self._in_thread(folder.status)
            if status is None or status.pid is not None or not status.alive:
                return status
            await asyncio.sleep(_NEW_PAUSE)
        return status

    async def _kill(self, name: str, session: int | None) -> None:
        await self._in_thread(lambda: kill_members(name, session, None))

    def _reap(self, name: str) -> None:
        """Reap a child of this process; children of an earlier agent are reaped by init."""
        child = self._children.get(name)
        if child is None:
            return
        try:
            ended, _ = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            ended = child
        if ended:
            del self._children[name]

    def _kill_user(self, folder: Folder) -> JobUser | None:
        """Kill what runs as the job's own user, if it has one; also what left its session."""
        spec = folder.spec() if self._users is not None and self._users.single is None else None
        if self._users is None or spec is None or spec.uid is None:
            return None
        user = self._users.of(spec.uid)
        kill_all(user)
        return user

    def _create(self, request: RunRequest, user: JobUser | None) -> Workload:
        _refuse_unsupported(request)
        folder = self._folder(request.name)
        spec = _spec_of(request, folder)
        spec = spec if user is None else replace(spec, uid=user.uid)
        existing = folder.spec()
        adopted = None if existing is None else _reuse_existing(existing, spec, folder)
        if adopted is not None and not is_outdated(adopted, request.lease):
            return adopted
        environment = self._variables(request, user)
        try:
            folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(spec.workdir).mkdir(mode=0o700, parents=True, exist_ok=True)
            write_files(request)
            if user is not None:
                for path in folder.private if user.home is None else ():
                    path.mkdir(mode=0o700, exist_ok=True)
                _hand_over(request, folder, Path(spec.workdir), user)
            folder.create(spec, environment)
        except OSError as error:
            raise _not_created(request.name, error) from error
        return Workload(spec.name, spec.name, request.lease, WorkloadState.CREATED)

    def _variables(self, request: RunRequest, user: JobUser | None) -> dict[str, str]:
        extra, own = variables(request.arguments), {}
        if user is not None:
            home, temporary = self._folder(request.name).private
            own = user.environment(home)
            own |= {} if user.home else {"TMPDIR": str(temporary)}
        return process_environment(request, extra, self._environment, self._config, own)

    def _start(self, workload: Workload) -> StartResult:
        folder = self._folder(workload.name)
        spec = folder.spec()
        if spec is None:
            message = f"the folder of '{workload.name}' has been removed"
            return StartUnknown(Cause.LOST_WORKLOAD, message)
        try:
            user = self._users.of(spec.uid) if self._users and spec.uid is not None else None
            self._children[spec.name] = spawn(folder, spec, self._limits, user)
        except StartedBeforeError:
            return Started(_read_workload(folder) or workload, before=True)
        folder.forget_secrets()
        status = folder.status()
        started = status.started_at if status else None
        return Started(replace(workload, state=WorkloadState.RUNNING, started_at=started))

    def _remove_if_over(self, workload: Workload) -> tuple[JobUser | None, bool]:
        """Remove it unless something of it may still run.

        The user that is free afterwards, and whether nothing is left to stop.
        """
        folder = self._folder(workload.name)
        spec, status = folder.spec(), folder.status()
        if spec is not None and spec.lease is not None and spec.lease.epoch > workload.lease.epoch:
            # Another agent on this root has created it since, under a later lease.
            return None, True
        user = self._kill_user(folder)
        if status is not None and (
            status.alive or status.pid is None or not group_is_empty(status.pid)
        ):
            return user, False
        folder.remove()
        return user, True

    def _owned(self) -> list[Workload]:
        found = [self._own_workload(folder) for folder in folders(self._root)]
        return [workload for workload in found if workload is not None]

    def _own_workload(self, folder: Folder) -> Workload | None:
        spec = folder.spec()
        mine = spec is not None and spec.labels.get(LABEL_CONTROL_PLANE) == self._control_plane_id
        return _read_workload(folder) if mine else None

    def _folder(self, name: str) -> Folder:
        return Folder(self._root / name)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _refuse_unsupported(request: RunRequest) -> None:
    """A process sees the agent's file system: only files named by a variable reach it."""
    targets = [*request.mounts, *(set(request.files) - set(request.file_variables.values()))]
    if targets:
        message = f"A local process has no file system of its own for {', '.join(sorted(targets))}."
        hint = "Give the secret `as_env`, or use the resource local-container."
        raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)


def _spec_of(request: RunRequest, folder: Folder) -> ProcessSpec:
    argv = (*request.command, *request.args)
    if not request.command:
        message = "The job has no command, and a local process has no image to take one from."
        raise JobError(Cause.START_ENTRYPOINT, message, hint="Submit with --entry-point.")
    if not all(is_valid_text(word) for word in argv):
        message = "An argument of the command is not valid text."
        raise PolicyError(Cause.POLICY_SPEC, message, hint=NOT_TEXT_HINT)
    workdir = request.workdir or folder.path / "work"
    return ProcessSpec(request.name, dict(request.labels), argv, str(workdir), boot_id())


def _hand_over(request: RunRequest, folder: Folder, workdir: Path, user: JobUser) -> None:
    """Give the user the copy of the source, the files and the folders of the job."""
    for parent in (folder.path.parent, folder.path):
        parent.chmod(0o711)  # to pass through, not to list
    source = workdir
    if request.folder in workdir.parents:
        source = request.folder / workdir.relative_to(request.folder).parts[0]
    for path in (source, files_folder(request), *folder.private):
        if path.exists():
            user.hand_over(path)


def _reuse_existing(existing: ProcessSpec, wanted: ProcessSpec, folder: Folder) -> Workload:
    found = _read_workload(folder)
    if found is None or not same_attempt(existing.labels, wanted.labels):
        message = f"The folder {folder.path} belongs to another job."
        raise JobError(Cause.START_FAILED, message, hint="Remove it, then retry the item.")
    return found


def _read_workload(folder: Folder) -> Workload | None:
    spec = folder.spec()
    lease = spec.lease if spec else None
    if spec is None or lease is None:
        return None
    status = folder.status()
    if status is None:
        return Workload(spec.name, spec.name, lease, WorkloadState.CREATED)
    ended = status.exit_code is not None
    state = WorkloadState.RUNNING if status.alive and not ended else WorkloadState.EXITED
    ending = _ending(spec.name, status) if ended else None
    return Workload(spec.name, spec.name, lease, state, status.started_at, ending)


def _ending(name: str, status: Status | None) -> Ending:
    if status is not None and not status.same_boot:
        # Jobs are stopped when a machine shuts down: an exit code may come from that.
        message = f"the machine was restarted before the end of '{name}' was reported"
        return Ending(None, cause=Cause.LOST_WORKLOAD, message=message)
    if status is None or status.exit_code is None:
        message = (
            f"the supervisor of '{name}' vanished without an exit code: it was killed from outside"
        )
        return Ending(None, cause=Cause.LOST_WORKLOAD, message=message)
    return Ending.from_exit_code(status.exit_code, status.finished_at)


def _identity(root: Path) -> str:
    """The id of the root, created once; `hardlink_to` lets one of two creators win."""
    path = root / "backend-id"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = root / f".{uuid.uuid4().hex}"
    if not path.exists():
        draft.write_text(f"process-{uuid.uuid4().hex}")
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text()


def _not_created(name: str, error: OSError) -> JobError:
    cause = Cause.DISK_FULL if is_disk_full(error) else Cause.START_FAILED
    message = f"The folder of '{name}' could not be written: {error.strerror or error}."
    return JobError(cause, message)
