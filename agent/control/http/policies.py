"""The policy of every route, in one table; the app does not start with a route that lacks one."""

from enum import StrEnum
from typing import Final

from aiohttp import web


class Access(StrEnum):
    """Who may call a route; what they may do there is the services' to say."""

    #: Anybody.
    PUBLIC = "public"
    #: Anybody on this machine; with a key from elsewhere.
    PROBE = "probe"
    #: Any credential; without one 401.
    KEY = "key"
    #: Any credential of a person; a browser without one is sent to the sign-in page.
    PAGE = "page"


_EXACT: Final = {
    "/healthz": Access.PUBLIC,
    "/readyz": Access.PUBLIC,
    "/metrics": Access.PROBE,
    "/": Access.PUBLIC,
    "/favicon.ico": Access.PUBLIC,
    "/login": Access.PUBLIC,
    "/login/link": Access.PUBLIC,
    "/logout": Access.PUBLIC,
    "/sdk/otel/{path}": Access.PUBLIC,
    "/graphql": Access.KEY,
    # Where W&B's clients, and our commands, say that a project's jobs are.
    "/{entity}/{project}/jobs": Access.PAGE,
    "/launch/sign-in-links": Access.KEY,
    "/launch/items/{item}/attempts/{attempt}/logs/{channel}": Access.KEY,
}
#: Longest first.
_BELOW: Final = (
    ("/launch/static", Access.PUBLIC),
    # Signed: the address is the right.
    ("/storage", Access.PUBLIC),
    ("/artifactsV2", Access.KEY),
    ("/files", Access.KEY),
    ("/launch", Access.PAGE),
)


def access_of(resource: web.AbstractResource | None) -> Access | None:
    """The declared policy of a route's resource; `None` when none is declared."""
    if resource is None:
        return None
    path = resource.canonical
    if path in _EXACT:
        return _EXACT[path]
    for prefix, access in _BELOW:
        if path == prefix or path.startswith(prefix + "/"):
            return access
    return None


def undeclared(app: web.Application) -> list[str]:
    """Routes without a policy."""
    return sorted(
        {resource.canonical for resource in app.router.resources() if access_of(resource) is None}
    )
