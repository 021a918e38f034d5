"""Logins for registries: Docker's own configuration and its credential helpers."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from agent.model.cause import Cause
from agent.model.errors import JobError


def registry_auth(repository: str, environment: Mapping[str, str]) -> str | None:
    """The engine's `X-Registry-Auth` header for a repository; `None` without a login. Blocks.

    Raises:
        JobError: `IMAGE_AUTH`: the credential helper failed.
    """
    # The SDK is imported here: it is large, and only a pull or a push needs it.
    import docker.auth
    import docker.errors

    try:
        registry, _ = docker.auth.resolve_repository_name(repository)
        config = docker.auth.load_config(config_path=_config_path(environment))
        found = config.resolve_authconfig(registry)
    except docker.errors.DockerException as error:
        raise JobError(
            Cause.IMAGE_AUTH,
            f"The login for the registry of «{repository}» cannot be read ({error}).",
            hint="Check `~/.docker/config.json` and its credential helper on the agent's machine.",
        ) from None
    if not found:
        return None
    return base64.urlsafe_b64encode(json.dumps(found).encode()).decode()


def _config_path(environment: Mapping[str, str]) -> str | None:
    folder = environment.get("DOCKER_CONFIG")
    file = Path(folder) / "config.json" if folder else None
    return str(file) if file is not None and file.is_file() else None
