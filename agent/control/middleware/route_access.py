"""Who may call which route, in one table; the app does not start with a route that is not in it."""

from enum import StrEnum
from typing import Final

from aiohttp import web


class Access(StrEnum):
    """Who may call a route; the services check what the caller may do there."""

    #: Everybody.
    PUBLIC = "public"
    #: Everybody on this machine; other machines need a key.
    PROBE = "probe"
    #: Any credential; without one 401.
    KEY = "key"
    #: Any credential of a user; a browser without one is redirected to the sign-in page.
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
    # The URL that W&B's clients and our commands print for the jobs of a project.
    "/{entity}/{project}/jobs": Access.PAGE,
    "/launch/sign-in-links": Access.KEY,
    "/launch/items/{item}/attempts/{attempt}/logs/{channel}": Access.KEY,
}
#: Longest first.
_BELOW: Final = (
    ("/launch/static", Access.PUBLIC),
    # Signed URLs: whoever has one may use it.
    ("/storage", Access.PUBLIC),
    ("/artifactsV2", Access.KEY),
    ("/files", Access.KEY),
    ("/launch", Access.PAGE),
)


def access_of(resource: web.AbstractResource | None) -> Access | None:
    """The policy of a route's resource; `None` when the table has none."""
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
    """The routes that the table has no policy for."""
    return sorted(
        {resource.canonical for resource in app.router.resources() if access_of(resource) is None}
    )
