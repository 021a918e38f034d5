"""The agent's state folder: used by one process at a time, and the installation's identity."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.model.errors import ConfigError, ConflictError
from agent.system.locks import try_lock

_LOCK: Final = "agent.lock"
_IDENTITY: Final = "agent.id"


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
            hint = "Stop it, or give this agent a folder of its own with `state_dir`."
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
