"""`credentials.json`: keys that `launch login` keeps, one per address."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from agent.config.paths import config_dir
from agent.model.errors import ConfigError

FILE_NAME: Final = "credentials.json"


def saved_key(environ: Mapping[str, str], url: str) -> SecretStr | None:
    """The key kept for an address."""
    key = _read(config_dir(environ) / FILE_NAME).get(_normal(url))
    return SecretStr(key) if key else None


def save_key(environ: Mapping[str, str], url: str, key: SecretStr) -> Path:
    """Keep a key for an address, readable by its owner only; returns the file."""
    file = config_dir(environ) / FILE_NAME
    known = {**_read(file), _normal(url): key.get_secret_value()}
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{FILE_NAME}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        json.dump(known, handle, indent=2)
    Path(temporary).replace(file)
    return file


def _read(file: Path) -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        message = f"The file of saved keys {file} cannot be read: {error}."
        raise ConfigError(message, hint="Mend or remove it, then run `launch login`.") from None
    return known


def _normal(url: str) -> str:
    return url.rstrip("/").lower()
