"""W&B's own configuration: its files, its service, its keys."""

import netrc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from agent.config.paths import wandb_config_file

#: The address of W&B's hosted service, which its clients use unless told otherwise.
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
WANDB_DEFAULTS: Final[Mapping[str, Any]] = {"max_jobs": 1}


def is_wandb_shape(path: Path, data: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    """Whether a file is W&B's: at W&B's place, or with its required key and no key of ours."""
    if path == wandb_config_file(environ):
        return "server" not in data
    return "entity" in data and set(data) <= WANDB_KEYS


def stored_key(url: str, environ: Mapping[str, str]) -> SecretStr | None:
    """The key that `wandb login` has kept for this very host, if any."""
    home = Path(environ.get("HOME") or Path.home())
    file = Path(environ.get("NETRC") or home / ".netrc")
    try:
        found = netrc.netrc(str(file)).hosts.get(urlsplit(url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return SecretStr(found[2]) if found and found[2] else None
