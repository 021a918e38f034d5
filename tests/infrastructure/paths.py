"""Where facts, caches and the services' own data live."""

import hashlib
import os
from pathlib import Path

_NAME = "launch-agent-tests"


def state_file() -> Path:
    """Return the JSON file of facts; LAUNCH_TEST_STATE overrides its place."""
    chosen = os.environ.get("LAUNCH_TEST_STATE")
    if chosen:
        return Path(chosen)
    return _xdg("XDG_STATE_HOME", ".local/state") / _NAME / "services.json"


def cache_directory() -> Path:
    """Return the directory of things that are dear to make and can be made again."""
    return _xdg("XDG_CACHE_HOME", ".cache") / _NAME


def data_directory(service: str) -> Path:
    """Return the directory of one service's data, keys, log and pid file.

    With a state file of one's own the services are one's own, too, and so is this directory.
    """
    chosen = os.environ.get("LAUNCH_TEST_STATE")
    if not chosen:
        return _data() / service
    digest = hashlib.sha256(os.fsencode(Path(chosen).absolute())).hexdigest()[:8]
    return _data() / digest / service


def lock_file() -> Path:
    """Return the file whose lock serialises the command's runs, whatever their state file."""
    return _data() / "services.lock"


def _data() -> Path:
    """Return the parent of all data.

    Root's home is closed to the unprivileged users that some services run as, so root keeps
    it under /var/lib.
    """
    if os.geteuid() == 0:
        return Path("/var/lib") / _NAME
    return _xdg("XDG_STATE_HOME", ".local/state") / _NAME


def _xdg(variable: str, fallback: str) -> Path:
    chosen = os.environ.get(variable)
    return Path(chosen) if chosen else Path.home() / fallback
