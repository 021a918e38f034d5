"""Logins for Google's Artifact Registry, by Google's own library (extra `gcp`)."""

from concurrent.futures import Executor

from agent.ports.registry import Credentials
from agent.registries.login import HostLogins, missing_extra, refused
from agent.system.threads import in_thread

_SERVICE = "Google's Artifact Registry"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
#: The user that stands for an access token as password.
_USER = "oauth2accesstoken"


def google_logins(host: str, threads: Executor) -> HostLogins:
    """Logins for one region's host, with the application default credentials; for an hour."""
    return HostLogins(host, lambda: in_thread(threads, lambda _: _ask(host)))


def _ask(host: str) -> Credentials:
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
    return Credentials(host, _USER, str(account.token))
