"""Files of this user: where state, data and configuration are kept, and the stored keys.

Keys are in `credentials.json` of `launch login`, and in `embedded.json`, by which commands find
a control plane that is embedded in a running `launch-agent` of the same user.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from pydantic import SecretStr

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


# ------------------------------------------------------------------ keys

_SAVED: Final = "credentials.json"
_EMBEDDED: Final = "embedded.json"
ADMINISTRATOR_KEY: Final = "administrator.key"
#: Of the last embedded control plane that was shut down cleanly.
_LAST_EMBEDDED: Final = "embedded.last.json"


def saved_key(environ: Mapping[str, str], url: str) -> SecretStr | None:
    """The key that `launch login` stored for an address.

    Raises:
        ConfigError: the file of saved keys cannot be read.
    """
    key = _saved(config_dir(environ) / _SAVED).get(_normal(url))
    return SecretStr(key) if key else None


def save_key(environ: Mapping[str, str], url: str, key: SecretStr) -> Path:
    """Store a key for an address; returns the file.

    Raises:
        ConfigError: the file of saved keys cannot be read.
    """
    file = config_dir(environ) / _SAVED
    saved = {**_saved(file), _normal(url): key.get_secret_value()}
    _write_private(file, json.dumps(saved, indent=2))
    return file


@dataclass(frozen=True, slots=True)
class EmbeddedControlPlane:
    """A control plane inside a `launch-agent` of this user."""

    url: str
    api_key: str = field(repr=False)
    #: Of the agent.
    pid: int
    entity: str


def write_embedded(state_dir: Path, control_plane: EmbeddedControlPlane) -> None:
    """Write `embedded.json`."""
    _write_private(state_dir / _EMBEDDED, json.dumps(asdict(control_plane), indent=2))


def write_administrator_key(data_dir: Path, key: str) -> Path:
    """The file of a server's data folder that has the key of its first administrator."""
    file = data_dir / ADMINISTRATOR_KEY
    _write_private(file, f"{key}\n")
    return file


def read_embedded(state_dir: Path) -> EmbeddedControlPlane | None:
    """What `embedded.json` says, as long as the process that wrote it lives."""
    found = _read_embedded(state_dir / _EMBEDDED)
    return found if found and _is_alive(found.pid) else None


def remembered_key(state_dir: Path) -> str | None:
    """The key of the last start, so that browsers and exported variables stay valid."""
    found = _read_embedded(state_dir / _EMBEDDED) or _read_embedded(state_dir / _LAST_EMBEDDED)
    return found.api_key if found else None


def remove_embedded(state_dir: Path, pid: int) -> None:
    """Remove `embedded.json` if process `pid` wrote it."""
    found = read_embedded(state_dir)
    if found is not None and found.pid == pid:
        (state_dir / _EMBEDDED).replace(state_dir / _LAST_EMBEDDED)


def _write_private(file: Path, text: str) -> None:
    """Write a file that only its owner may read; readers see the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    Path(temporary).replace(file)


def _saved(file: Path) -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        message = f"The file of saved keys {file} cannot be read: {error}."
        raise ConfigError(message, hint="Fix or remove it, then run `launch login`.") from None
    return known


def _normal(url: str) -> str:
    return url.rstrip("/").lower()


def _read_embedded(file: Path) -> EmbeddedControlPlane | None:
    try:
        return EmbeddedControlPlane(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, and belongs to another user
    return True
