"""Where facts, caches and the services' own data live."""

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

    Root's home is closed to the unprivileged users that some services run as, so root keeps
    these under /var/lib.
    """
    if os.geteuid() == 0:
        return Path("/var/lib") / _NAME / service
    return _xdg("XDG_STATE_HOME", ".local/state") / _NAME / service


def _xdg(variable: str, fallback: str) -> Path:
    chosen = os.environ.get(variable)
    return Path(chosen) if chosen else Path.home() / fallback
