"""Logins for Google's Artifact Registry, by Google's own library (extra `gcp`)."""

from concurrent.futures import Executor

from agent.ports.registry import Credentials
from agent.registries.login import missing_extra, refused
from agent.system.threads import in_thread

_SERVICE = "Google's Artifact Registry"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
#: The user that stands for an access token as password.
_USER = "oauth2accesstoken"


class GoogleLogins:
    """`LoginSource` for one region's host, with the application default credentials."""

    def __init__(self, host: str, threads: Executor) -> None:
        self._host = host
        self._threads = threads

    async def login(self, repository: str) -> Credentials | None:
        """See `LoginSource`. Google's tokens hold for an hour."""
        if repository.partition("/")[0] != self._host:
            return None
        return await in_thread(self._threads, lambda _: self._ask())

    def _ask(self) -> Credentials:
        try:
            import google.auth
            import google.auth.exceptions
            import google.auth.transport.requests
        except ImportError:
            raise missing_extra(_SERVICE, "google-auth", "gcp") from None
        try:
            account, _ = google.auth.default(scopes=[_SCOPE])
            account.refresh(google.auth.transport.requests.Request())
        except google.auth.exceptions.GoogleAuthError as error:
            raise refused(_SERVICE, str(error)) from None
        return Credentials(self._host, _USER, str(account.token))
