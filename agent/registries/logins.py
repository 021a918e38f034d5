"""Logins of registries: from Docker's configuration, and by the clouds' own libraries.

Amazon ECR needs the extra `aws`, Google's Artifact Registry `gcp`, Azure's registry `azure`.
"""

import base64
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import aiohttp

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.redact import Redactor
from agent.ports.registry import Credentials
from agent.system.tasks import in_thread

_MAX_MESSAGE_CHARS: Final = 400
_ECR: Final = "Amazon ECR"
_GOOGLE: Final = "Google's Artifact Registry"
_GOOGLE_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
#: User name for an access token as password.
_GOOGLE_USER: Final = "oauth2accesstoken"
_ACR: Final = "Azure's Container Registry"
_ACR_SCOPE: Final = "https://containerregistry.azure.net/.default"
_ACR_USER: Final = "00000000-0000-0000-0000-000000000000"
_ACR_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
_OK: Final = 200


class LoginSource(Protocol):
    """One place that logins come from."""

    async def login(self, repository: str) -> Credentials | None:
        """A login for the registry of the repository; `None`: this source has none.

        Raises:
            JobError: `IMAGE_AUTH`.
        """


@dataclass(frozen=True, slots=True)
class HostLogins:
    """`LoginSource` for the repositories of one host; `ask` requests a login from a cloud."""

    host: str
    ask: Callable[[], Awaitable[Credentials]]

    async def login(self, repository: str) -> Credentials | None:
        """See `LoginSource`."""
        return await self.ask() if repository.partition("/")[0] == self.host else None


def missing_extra(service: str, package: str, extra: str) -> JobError:
    """A cloud's library is not installed."""
    return JobError(
        Cause.IMAGE_AUTH,
        f"{service} wants a login, and the package `{package}` that requests it is not installed.",
        hint=f"Install `launch-agent[{extra}]`, or log the agent's machine in with `docker login`.",
    )


def refused(service: str, why: str) -> JobError:
    """The error when a cloud gives no login; its library's message may be a page long."""
    words = Redactor().text(" ".join(why.split()))[:_MAX_MESSAGE_CHARS].rstrip(". ")
    return JobError(
        Cause.IMAGE_AUTH,
        f"{service} gives the agent no login: {words}.",
        hint="Check the cloud account that the agent's machine works with.",
    )


class DockerLogins:
    """`LoginSource` over `config.json`: what `docker login` keeps, and what helpers answer."""

    def __init__(self, environment: Mapping[str, str], threads: Executor) -> None:
        self._environment = environment
        self._threads = threads

    async def login(self, repository: str) -> Credentials | None:
        """See `LoginSource`. Read at each call, so that a new login takes effect at once."""
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
    """Files and helpers write the same keys in different cases."""
    return next((value for name in names if (value := found.get(name))), "")


def _config_path(environment: Mapping[str, str]) -> str | None:
    folder = environment.get("DOCKER_CONFIG")
    file = Path(folder) / "config.json" if folder else None
    return str(file) if file is not None and file.is_file() else None


def ecr_logins(host: str, region: str, threads: Executor) -> HostLogins:
    """Logins for one account's registry in one region; they hold for twelve hours.

    The account that counts is AWS's default: environment, profile, or the machine's role.
    """
    return HostLogins(host, lambda: in_thread(threads, lambda _: _ask_ecr(host, region)))


def _ask_ecr(host: str, region: str) -> Credentials:
    try:
        import boto3
        import botocore.exceptions
    except ImportError:
        raise missing_extra(_ECR, "boto3", "aws") from None
    account = host.partition(".")[0]
    try:
        client = boto3.client("ecr", region_name=region)
        answer = client.get_authorization_token(registryIds=[account])
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise refused(_ECR, str(error)) from None
    return _read_ecr(host, answer["authorizationData"][0]["authorizationToken"])


def _read_ecr(host: str, token: str) -> Credentials:
    """Base64 over `user:password`, as for HTTP's own Basic."""
    user, colon, password = base64.b64decode(token).decode("utf-8", "replace").partition(":")
    if not colon:
        raise refused(_ECR, "its answer holds no user and password")
    return Credentials(host, user, password)


def google_logins(host: str, threads: Executor) -> HostLogins:
    """Logins for one region's host, with the application default credentials; for an hour."""
    return HostLogins(host, lambda: in_thread(threads, lambda _: _ask_google(host)))


def _ask_google(host: str) -> Credentials:
    try:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests
    except ImportError:
        raise missing_extra(_GOOGLE, "google-auth", "gcp") from None
    try:
        account, _ = google.auth.default(scopes=[_GOOGLE_SCOPE])
        account.refresh(google.auth.transport.requests.Request())
    except google.auth.exceptions.GoogleAuthError as error:
        raise refused(_GOOGLE, str(error)) from None
    return Credentials(host, _GOOGLE_USER, str(account.token))


def acr_logins(host: str, threads: Executor) -> HostLogins:
    """Logins for one registry, with Azure's default credential; they hold for three hours."""

    async def ask() -> Credentials:
        directory_token = await in_thread(threads, lambda _: _directory_token())
        return await exchange(f"https://{host}", host, directory_token)

    return HostLogins(host, ask)


def _directory_token() -> str:
    try:
        import azure.core.exceptions
        import azure.identity
    except ImportError:
        raise missing_extra(_ACR, "azure-identity", "azure") from None
    try:
        with azure.identity.DefaultAzureCredential() as credential:
            return str(credential.get_token(_ACR_SCOPE).token)
    except azure.core.exceptions.AzureError as error:
        raise refused(_ACR, str(error)) from None


async def exchange(base: str, server: str, directory_token: str) -> Credentials:
    """The registry's refresh token for a token of the directory.

    Raises:
        JobError: `IMAGE_AUTH`.
    """
    form = {"grant_type": "access_token", "service": server, "access_token": directory_token}
    try:
        async with (
            aiohttp.ClientSession(timeout=_ACR_TIMEOUT) as session,
            session.post(f"{base}/oauth2/exchange", data=form, allow_redirects=False) as answer,
        ):
            if answer.status != _OK:
                raise refused(_ACR, f"it answers {answer.status} {answer.reason}")
            body = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise refused(_ACR, str(error) or "no answer") from None
    token = body.get("refresh_token") if isinstance(body, dict) else None
    if not token:
        raise refused(_ACR, "its answer holds no token")
    return Credentials(server, _ACR_USER, str(token))
