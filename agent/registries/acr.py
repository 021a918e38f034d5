"""Logins for Azure's Container Registry, by Azure's own library (extra `azure`).

Azure's identity library gives a token of the directory; the registry exchanges it for a
refresh token of its own, which is a password for this one user name.
"""

from concurrent.futures import Executor
from typing import Final

import aiohttp

from agent.model.errors import JobError
from agent.ports.registry import Credentials
from agent.registries.login import missing_extra, refused
from agent.system.threads import in_thread

_SERVICE: Final = "Azure's Container Registry"
_SCOPE: Final = "https://containerregistry.azure.net/.default"
_USER: Final = "00000000-0000-0000-0000-000000000000"
_PATIENCE: Final = aiohttp.ClientTimeout(total=30)
_OK: Final = 200


class AcrLogins:
    """`LoginSource` for one registry, with Azure's default credential."""

    def __init__(self, host: str, threads: Executor) -> None:
        self._host = host
        self._threads = threads

    async def login(self, repository: str) -> Credentials | None:
        """See `LoginSource`. The registry's tokens hold for three hours."""
        if repository.partition("/")[0] != self._host:
            return None
        directory_token = await in_thread(self._threads, lambda _: _directory_token())
        return await exchange(f"https://{self._host}", self._host, directory_token)


def _directory_token() -> str:
    try:
        import azure.core.exceptions
        import azure.identity
    except ImportError:
        raise missing_extra(_SERVICE, "azure-identity", "azure") from None
    try:
        with azure.identity.DefaultAzureCredential() as credential:
            return str(credential.get_token(_SCOPE).token)
    except azure.core.exceptions.AzureError as error:
        raise refused(_SERVICE, str(error)) from None


async def exchange(base: str, server: str, directory_token: str) -> Credentials:
    """The registry's refresh token for a token of the directory.

    Raises:
        JobError: `IMAGE_AUTH`.
    """
    form = {"grant_type": "access_token", "service": server, "access_token": directory_token}
    try:
        async with (
            aiohttp.ClientSession(timeout=_PATIENCE) as session,
            session.post(f"{base}/oauth2/exchange", data=form, allow_redirects=False) as answer,
        ):
            if answer.status != _OK:
                raise _no_exchange(f"it answers {answer.status} {answer.reason}")
            body = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise _no_exchange(str(error) or "no answer") from None
    token = body.get("refresh_token") if isinstance(body, dict) else None
    if not token:
        raise _no_exchange("its answer holds no token")
    return Credentials(server, _USER, str(token))


def _no_exchange(why: str) -> JobError:
    return refused(_SERVICE, why)
