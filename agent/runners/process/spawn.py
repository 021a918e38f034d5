"""Starts a job: its supervisor, in a session of its own, as the configured user."""

import fcntl
import functools
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.config.execution import ProcessRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.runners.process.folder import Folder, ProcessSpec
from agent.system.job_users import JobUser
from agent.system.machine import boot_id, is_disk_full

_SHELL: Final = "/bin/sh"


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Limits for each process of a job, as the supervisor's arguments."""

    #: KiB of address space.
    memory: str = "-"
    files: str = "-"
    processes: str = "-"

    @classmethod
    def of(cls, config: ProcessRunnerConfig) -> "ProcessLimits":
        """From the configuration."""
        memory = config.max_memory
        return cls(
            memory="-" if memory is None else str(max(1, memory // 1024)),
            files=str(config.max_open_files or "-"),
            processes=str(config.max_processes or "-"),
        )


class StartedBeforeError(Exception):
    """The status file exists: a start was tried before."""


def spawn(folder: Folder, spec: ProcessSpec, limits: ProcessLimits, user: JobUser | None) -> int:
    """Start the supervisor; returns its process id. Blocks.

    Raises:
        StartedBeforeError: nothing was started now.
        JobError: `START_ENTRYPOINT`, `START_FAILED`, `DISK_FULL`.
    """
    if folder.status_file.exists():
        raise StartedBeforeError
    environment = folder.environment()
    program = _program(spec, environment)
    argv = (limits.memory, limits.files, limits.processes, program, *spec.argv[1:])
    try:
        status = _claim(folder)
        try:
            return _launch(folder, spec, argv, environment, status, user)
        finally:
            os.close(status)
    except OSError as error:
        cause = Cause.DISK_FULL if is_disk_full(error) else Cause.START_FAILED
        message = f"'{spec.name}' could not be started: {error.strerror or error}."
        raise JobError(cause, message) from error


def _claim(folder: Folder) -> int:
    """Create the status file, which prevents a second start."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    try:
        descriptor = os.open(folder.status_file, flags, 0o600)
    except FileExistsError:
        raise StartedBeforeError from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, f"start {time.time():.6f}\nboot {boot_id()}\n".encode())
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _launch(
    folder: Folder,
    spec: ProcessSpec,
    argv: tuple[str, ...],
    environment: dict[str, str],
    status: int,
    user: JobUser | None,
) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    log = os.open(folder.log, flags, 0o600)
    try:
        if user is not None:
            os.fchown(log, user.uid, user.gid)  # for jobs that open /dev/stdout by name
        child = subprocess.Popen(
            [_SHELL, "-c", _script(), f"launch-supervisor:{spec.name}", *argv],
            env=environment,
            cwd=spec.workdir,
            stdin=status,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **(user.process_options() if user else {}),
        )
    finally:
        os.close(log)
    # The runner reaps it, or init after a restart of the agent; Popen would warn of a child
    # that outlives this object.
    child.returncode = 0
    return child.pid


@functools.cache
def _script() -> str:
    """The supervisor's script, passed as text.

    The job's user need not be able to read this package, and an upgrade of it does not affect
    running shells.
    """
    lines = Path(__file__).with_name("supervisor.sh").read_text("ascii").splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def _program(spec: ProcessSpec, environment: dict[str, str]) -> str:
    """The path of the command, found as the job would find it."""
    command = spec.argv[0]
    if "/" in command:
        found = Path(spec.workdir, command)
        if not found.exists():
            raise _entry_point(command, "does not exist")
        if found.is_dir() or not os.access(found, os.X_OK):
            raise _entry_point(command, "cannot be executed")
        return str(found)
    located = shutil.which(command, path=environment.get("PATH", os.defpath))
    if located is None:
        raise _entry_point(command, "does not exist on the job's PATH")
    return str(Path(spec.workdir, located))


def _entry_point(command: str, what: str) -> JobError:
    message = f"The command '{command}' {what}."
    hint = "Check --entry-point and the job's requirements."
    return JobError(Cause.START_ENTRYPOINT, message, hint=hint)
