"""Logins from Docker's own configuration and its credential helpers."""

from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.ports.registry import Credentials
from agent.system.threads import in_thread


class DockerLogins:
    """`LoginSource` over `config.json`: what `docker login` keeps, and what helpers answer."""

    def __init__(self, environment: Mapping[str, str], threads: Executor) -> None:
        self._environment = environment
        self._threads = threads

    async def login(self, repository: str) -> Credentials | None:
        """See `LoginSource`. Read anew each time: a login counts at once."""
        return await in_thread(self._threads, lambda _: docker_login(repository, self._environment))


def docker_login(repository: str, environment: Mapping[str, str]) -> Credentials | None:
    """The login that the docker program would use. Blocks.

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
            f"The login for the registry of '{repository}' cannot be read ({error}).",
            hint="Check `~/.docker/config.json` and its credential helper on the agent's machine.",
        ) from None
    if not found:
        return None
    server = "https://index.docker.io/v1/" if registry == docker.auth.INDEX_NAME else registry
    return Credentials(
        server=server,
        username=_text(found, "username", "Username"),
        password=_text(found, "password", "Password"),
        identity_token=_text(found, "identitytoken", "IdentityToken"),
    )


def _text(found: Mapping[str, str | None], *names: str) -> str:
    """Files and helpers write the same words in other cases."""
    return next((value for name in names if (value := found.get(name))), "")


def _config_path(environment: Mapping[str, str]) -> str | None:
    folder = environment.get("DOCKER_CONFIG")
    file = Path(folder) / "config.json" if folder else None
    return str(file) if file is not None and file.is_file() else None
