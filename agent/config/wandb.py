"""W&B's own configuration: its `launch-config.yaml`, its hosted service, its stored keys."""

import netrc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from agent.config.document import KeyPath
from agent.config.local_files import wandb_config_file
from agent.model.errors import ConfigError

#: The address of W&B's hosted service, the default of its clients.
HOSTED_URL: Final = "https://api.wandb.ai"

#: Keys of W&B's `launch-config.yaml`.
WANDB_KEYS: Final = frozenset(
    {
        "entity",
        "queues",
        "max_jobs",
        "max_schedulers",
        "secure_mode",
        "verbosity",
        "stopped_run_timeout",
        "environment",
        "registry",
        "builder",
    }
)

#: Where W&B's default differs from ours.
DEFAULTS: Final[Mapping[str, Any]] = {"max_jobs": 1}

_KANIKO: Final = "it belongs to W&B's kaniko builder, and this agent builds with BuildKit"
_SECURE_MODE: Final = ("secure_mode",)
#: Keys that W&B's agent reads and this one does not, and why.
_WITHOUT_EFFECT: Final[Mapping[KeyPath, str]] = {
    ("max_schedulers",): "this agent does not run sweep schedulers yet",
    _SECURE_MODE: "it is off, as by default",
    ("builder", "build-context-store"): _KANIKO,
    ("builder", "build-job-name"): _KANIKO,
    ("builder", "secret-name"): _KANIKO,
    ("builder", "secret-key"): _KANIKO,
    ("builder", "kaniko-image"): _KANIKO,
    ("builder", "kaniko-config"): _KANIKO,
}


def without_effect(path: KeyPath, value: Any, origin: str) -> tuple[KeyPath, str] | None:
    """The ignored W&B key that contains this value, and why; `None`: the value has an effect.

    Raises:
        ConfigError: `secure_mode` is switched on, whose checks this agent does not make.
    """
    key = next((each for each in _WITHOUT_EFFECT if path[: len(each)] == each), None)
    if key == _SECURE_MODE and value is not None and value is not False:
        message = f"{origin}: `secure_mode: {str(value).lower()}` is not supported: this agent "
        message += "does not make its checks of Kubernetes manifests and entry points."
        hint = "Remove the key. Jobs get those Docker options that "
        hint += "`runners.local-container.allow` names, and the harmless ones."
        raise ConfigError(message, hint=hint)
    return None if key is None else (key, _WITHOUT_EFFECT[key])


def is_wandb_shape(path: Path, data: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    """Whether a file is W&B's: at W&B's place, or with its required key and no key of ours."""
    if path == wandb_config_file(environ):
        return "server" not in data
    return "entity" in data and set(data) <= WANDB_KEYS


def stored_key(url: str, environ: Mapping[str, str]) -> SecretStr | None:
    """The key that `wandb login` stored in `.netrc` for this host, if any."""
    home = Path(environ.get("HOME") or Path.home())
    file = Path(environ.get("NETRC") or home / ".netrc")
    try:
        found = netrc.netrc(str(file)).hosts.get(urlsplit(url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return SecretStr(found[2]) if found and found[2] else None
