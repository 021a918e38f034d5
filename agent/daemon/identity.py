"""Who this installation is, and that only one process of it works at a time."""

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
def held_state_dir(state_dir: Path) -> Iterator[str]:
    """Hold the state folder for as long as the context lasts; gives its stable identity.

    The kernel frees the lock however the process ends.

    Raises:
        ConflictError: another process holds it; the message names its pid.
        ConfigError: the folder cannot be used.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"The state folder {state_dir} cannot be used: {error.strerror}."
        raise ConfigError(message, hint="Name another one by `state_dir`.") from error
    try:
        _take(descriptor, state_dir)
        yield _identity(state_dir / _IDENTITY)
    finally:
        os.close(descriptor)


def _take(descriptor: int, state_dir: Path) -> None:
    if not try_lock(descriptor):
        pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        message = f"Another launch-agent (pid {pid}) works in {state_dir}."
        hint = "Stop it, or give this one a folder of its own by `state_dir`."
        raise ConflictError(message, hint=hint)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _identity(file: Path) -> str:
    try:
        known = file.read_text().strip()
    except FileNotFoundError:
        known = ""
    if known:
        return known
    made = secrets.token_hex(12)
    # Whole or not at all: half an identity would be another installation.
    draft = file.with_suffix(".new")
    draft.write_text(made + "\n")
    draft.replace(file)
    return made
