"""Where things are kept: state, data of the embedded control plane, configuration files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.model.errors import ConfigError

APPLICATION: Final = "launch-agent"


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _base(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    """A base folder of the XDG specification, which ignores relative values."""
    given = environ.get(variable, "")
    return Path(given) if given.startswith("/") else _home(environ) / fallback


def state_dir(environ: Mapping[str, str]) -> Path:
    """Journal, caches, folders of attempts, and `embedded.json`."""
    if environ.get("LAUNCH_STATE_DIR"):
        return Path(environ["LAUNCH_STATE_DIR"]).expanduser()
    return _base(environ, "XDG_STATE_HOME", ".local/state") / APPLICATION


def data_dir(environ: Mapping[str, str]) -> Path:
    """Database, artifacts, logs and keys of the embedded control plane."""
    if environ.get("LAUNCH_DATA_DIR"):
        return Path(environ["LAUNCH_DATA_DIR"]).expanduser()
    return _base(environ, "XDG_DATA_HOME", ".local/share") / APPLICATION


def config_dir(environ: Mapping[str, str]) -> Path:
    """Our own configuration folder of this user."""
    return _base(environ, "XDG_CONFIG_HOME", ".config") / APPLICATION


def wandb_config_file(environ: Mapping[str, str]) -> Path:
    """Where W&B's agent looks for its configuration."""
    folder = environ.get("WANDB_CONFIG_DIR")
    base = Path(folder) if folder else _home(environ) / ".config" / "wandb"
    return base / "launch-config.yaml"


def find_config_file(environ: Mapping[str, str], given: Path | None) -> Path | None:
    """The one file that is read: the given one, `$LAUNCH_CONFIG`, ours, or W&B's.

    Raises:
        ConfigError: a file that was named does not exist.
    """
    named = given or (Path(environ["LAUNCH_CONFIG"]) if environ.get("LAUNCH_CONFIG") else None)
    if named is not None:
        path = named.expanduser()
        if not path.is_file():
            by = "--config" if given else "the environment variable LAUNCH_CONFIG"
            message = f"The configuration file {path}, named by {by}, does not exist."
            raise ConfigError(message, hint="Check the path; config.example.yaml shows all keys.")
        return path
    candidates = (config_dir(environ) / "config.yaml", wandb_config_file(environ))
    return next((path for path in candidates if path.is_file()), None)
