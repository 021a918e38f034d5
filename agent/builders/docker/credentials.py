"""Hands a registry's login to the engine, and to the docker program."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent.ports.registry import Credentials

#: The header's value without a login: an empty object.
ANONYMOUS: Final = "e30="


def engine_auth(login: Credentials | None) -> str | None:
    """The engine's `X-Registry-Auth` header; `None` without a login."""
    if login is None:
        return None
    body = {"serveraddress": login.server}
    if login.identity_token:
        body["identitytoken"] = login.identity_token
    else:
        body |= {"username": login.username, "password": login.password}
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode()


def write_docker_config(folder: Path, login: Credentials, environment: Mapping[str, str]) -> None:
    """A configuration for one build: the user's own, and this login above it. Blocks.

    A helper of the user's would be asked instead of the file, hence none for this registry.
    """
    own = _own_folder(environment)
    config = _own_config(own)
    config["auths"] = {**(config.get("auths") or {}), login.server: _entry(login)}
    config["credHelpers"] = {**(config.get("credHelpers") or {}), login.server: ""}
    plugins = [*(config.get("cliPluginsExtraDirs") or []), str(own / "cli-plugins")]
    config["cliPluginsExtraDirs"] = plugins
    folder.mkdir(mode=0o700)
    file = folder / "config.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(config), encoding="utf-8")


def _entry(login: Credentials) -> dict[str, str]:
    if login.identity_token:
        return {"identitytoken": login.identity_token}
    pair = f"{login.username}:{login.password}".encode()
    return {"auth": base64.b64encode(pair).decode()}


def _own_folder(environment: Mapping[str, str]) -> Path:
    home = environment.get("HOME") or Path.home()
    return Path(environment.get("DOCKER_CONFIG") or Path(home, ".docker"))


def _own_config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
