"""Child processes: commands that run to their end, and daemons that stay behind."""

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ServiceError

Argv = Sequence[str | Path]

_TAIL_LINES = 25
_POLL_SECONDS = 0.05


def run(
    argv: Argv,
    *,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
) -> str:
    """Run a command to its end and return its standard output without the last newline.

    Raises ServiceError with the end of the command's output when it is missing or fails.
    """
    try:
        done = subprocess.run(
            [str(part) for part in argv],
            input=stdin,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        message = f"the program {argv[0]} is not installed"
        raise ServiceError(message) from error
    if done.returncode != 0:
        shown = "\n".join((done.stdout + done.stderr).splitlines()[-_TAIL_LINES:])
        command = " ".join(str(part) for part in argv)
        message = f"`{command}` failed with status {done.returncode}:\n{shown}"
        raise ServiceError(message)
    return done.stdout.rstrip("\n")


def succeeds(argv: Argv) -> bool:
    """Tell whether a command exists and exits with status 0."""
    try:
        run(argv)
    except ServiceError:
        return False
    return True


def free_port(preferred: int = 0) -> int:
    """Return a loopback port that nothing listens on: the preferred one if it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether something accepts connections on this port."""
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


@dataclass(frozen=True)
class Daemon:
    """A background process known by a pid file, with its log beside it."""

    name: str
    directory: Path

    @property
    def log_file(self) -> Path:
        """The file that takes the process's standard output and error."""
        return self.directory / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        """The file that names the process by pid, boot and start time."""
        return self.directory / f"{self.name}.pid"

    def pid(self) -> int | None:
        """Return the pid of the process if it is the one started here and still lives.

        The start time and the boot's id guard against a pid that another process has now.
        """
        try:
            recorded = json.loads(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        pid = int(recorded["pid"])
        return pid if _identity(pid) == recorded["identity"] else None

    def start(
        self,
        argv: Argv,
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        """Start the process in a session of its own; its log begins anew."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if env is None else {**os.environ, **env},
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                start_new_session=True,
            )
        # It may have ended already; until it is reaped it can still be identified.
        _, started = _state_and_start(process.pid)
        record = {"pid": process.pid, "identity": started}
        self.pid_file.write_text(json.dumps(record))
        # The child outlives this command on purpose: no destructor may warn about that.
        process.returncode = 0

    def wait_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready` holds; give up when the process ends or the time is over."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.pid() is None:
                message = f"{self.name} ended while starting; its log ends with:\n{self.tail()}"
                raise ServiceError(message)
            if time.monotonic() > deadline:
                self.stop()
                message = f"{self.name} was not ready in {seconds:g} s; log:\n{self.tail()}"
                raise ServiceError(message)
            time.sleep(_POLL_SECONDS)

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 30) -> bool:
        """End the process, by SIGKILL after `timeout` seconds; tell whether there was one."""
        pid = self.pid()
        if pid is not None:
            handle = os.pidfd_open(pid)
            try:
                _end(handle, how, timeout)
            finally:
                os.close(handle)
        self.pid_file.unlink(missing_ok=True)
        return pid is not None

    def tail(self) -> str:
        """Return the last lines of the log."""
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(text.splitlines()[-_TAIL_LINES:])


def _end(handle: int, how: signal.Signals, timeout: float) -> None:
    for attempt in (how, signal.SIGKILL):
        signal.pidfd_send_signal(handle, attempt)
        waiter = select.poll()
        waiter.register(handle, select.POLLIN)
        if waiter.poll(timeout * 1000):
            return


def _identity(pid: int) -> str | None:
    """Return boot id and start time of a live process, nothing for a dead one or a zombie."""
    try:
        state, started = _state_and_start(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else started


def _state_and_start(pid: int) -> tuple[str, str]:
    """Return a process's state letter and when it started; a zombie still tells both."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return fields[0], f"{boot}/{fields[19]}"
