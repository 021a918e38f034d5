"""Logins for Azure's Container Registry, by Azure's own library (extra `azure`).

Azure's identity library gives a token of the directory; the registry exchanges it for a
refresh token of its own, which is a password for this one user name.
"""

from concurrent.futures import Executor
from typing import Final

import aiohttp

from agent.ports.registry import Credentials
from agent.registries.login import HostLogins, missing_extra, refused
from agent.system.threads import in_thread

_SERVICE: Final = "Azure's Container Registry"
_SCOPE: Final = "https://containerregistry.azure.net/.default"
_USER: Final = "00000000-0000-0000-0000-000000000000"
_PATIENCE: Final = aiohttp.ClientTimeout(total=30)
_OK: Final = 200


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
                raise refused(_SERVICE, f"it answers {answer.status} {answer.reason}")
            body = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise refused(_SERVICE, str(error) or "no answer") from None
    token = body.get("refresh_token") if isinstance(body, dict) else None
    if not token:
        raise refused(_SERVICE, "its answer holds no token")
    return Credentials(server, _USER, str(token))
