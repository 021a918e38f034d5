"""The daemon as a process: its state folder's lock, its signals, its notifications to systemd."""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from agent.model.errors import ConfigError, ConflictError
from agent.system.locks import try_lock

_LOCK: Final = "agent.lock"
_IDENTITY: Final = "agent.id"
#: Seconds by which a start that waits may be longer, beginning with each call of `waiting`.
_MORE_TIME: Final = 60
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def locked_state_folder(folder: Path) -> Iterator[str]:
    """Lock the folder, creating it if necessary; yields the installation's stable identity.

    The kernel releases the lock however the process ends.

    Raises:
        ConflictError: another process has locked it; the message names its pid.
        ConfigError: the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"The state folder {folder} cannot be used: {error.strerror}."
        raise ConfigError(message, hint="Set `state_dir` to another folder.") from error
    try:
        if not try_lock(descriptor):
            pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            message = f"Another launch-agent (pid {pid}) uses the state folder {folder}."
            hint = (
                "One agent serves several queues: stop that one, and start it with `--queue` for "
                "each. A second agent beside it needs `--state-dir` and `--name` of its own, and "
                "the same `--server`."
            )
            raise ConflictError(message, hint=hint)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield _identity(folder / _IDENTITY)
    finally:
        os.close(descriptor)


def _identity(file: Path) -> str:
    try:
        known = file.read_text().strip()
    except FileNotFoundError:
        known = ""
    if known:
        return known
    created = secrets.token_hex(12)
    # Written atomically: a truncated identity would be that of another installation.
    draft = file.with_suffix(".new")
    draft.write_text(created + "\n")
    draft.replace(file)
    return created


@contextmanager
def signal_handlers(handle: Callable[[], None]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT during the context."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


class SystemdNotifier:
    """Sends what systemd wants to know to `NOTIFY_SOCKET`; does nothing where it is not set."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._pid = environ.get("WATCHDOG_PID", "")
        microseconds = environ.get("WATCHDOG_USEC", "")
        self._interval = int(microseconds) / 1_000_000 if microseconds.isdigit() else 0.0

    def waiting(self) -> None:
        """The start waits for something outside; called at least every `_MORE_TIME` seconds."""
        self._send(f"EXTEND_TIMEOUT_USEC={_MORE_TIME * 1_000_000}")

    def ready(self, status: str) -> None:
        """The service is up."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        """The service begins to shut down."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    async def run_watchdog(self) -> None:
        """Send WATCHDOG=1 at half the watchdog's interval, which proves a live event loop.

        Never returns, also where systemd did not ask this process for it.
        """
        enabled = self._address and self._interval > 0 and self._pid in {"", str(os.getpid())}
        if not enabled:
            await asyncio.Event().wait()
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._interval / 2)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the NUL byte of an abstract address.
        abstract = self._address.startswith("@")
        address = "\0" + self._address[1:] if abstract else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
                datagram.setblocking(False)
                datagram.sendto(text.encode(), address)
        except OSError as error:
            structlog.get_logger().warning("systemd was not notified", error=str(error))
