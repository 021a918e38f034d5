"""Who may call which route, and the middleware that authenticates every request.

The app does not start with a route that is not in the table.
"""

import base64
import hmac
from enum import StrEnum
from typing import Final
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from agent.control.auth.policy import CredentialKind
from agent.control.middleware.browser_security import is_cross_site
from agent.control.middleware.errors import error_response
from agent.control.request_data import (
    BY_HEADER,
    COOKIE,
    PLANE,
    PRINCIPAL,
    SCRAPE_KEY,
    THROTTLE,
    peer_address,
)
from agent.model.errors import AuthenticationError
from agent.model.json_values import check_text


class RouteAccess(StrEnum):
    """Who may call a route; the services check what the caller may do there."""

    #: Everybody.
    PUBLIC = "public"
    #: Only the scrape key of the configuration, which opens nothing else.
    SCRAPE = "scrape"
    #: Any credential; without one 401.
    KEY = "key"
    #: Any credential of a user; a browser without one is redirected to the sign-in page.
    PAGE = "page"
    #: As `PAGE` for what asks for HTML; for all else as `KEY`, since any path of one part is such.
    ADDRESS = "address"


_PAGES: Final = frozenset({RouteAccess.PAGE, RouteAccess.ADDRESS})
_EXACT: Final = {
    "/healthz": RouteAccess.PUBLIC,
    "/readyz": RouteAccess.PUBLIC,
    "/metrics": RouteAccess.SCRAPE,
    "/": RouteAccess.PUBLIC,
    "/login": RouteAccess.PUBLIC,
    "/login/link": RouteAccess.PUBLIC,
    "/logout": RouteAccess.PUBLIC,
    "/sdk/otel/{path}": RouteAccess.PUBLIC,
    "/graphql": RouteAccess.KEY,
    # URLs that W&B's clients print, and `launch` for the jobs of a project.
    "/authorize": RouteAccess.PAGE,
    "/settings": RouteAccess.PAGE,
    "/{entity}": RouteAccess.ADDRESS,
    "/{entity}/{project}": RouteAccess.PAGE,
    "/{entity}/{project}/overview": RouteAccess.PAGE,
    "/{entity}/{project}/runs": RouteAccess.PAGE,
    "/{entity}/{project}/sweeps": RouteAccess.PAGE,
    "/{entity}/{project}/table": RouteAccess.PAGE,
    "/{entity}/{project}/workspace": RouteAccess.PAGE,
    "/{entity}/{project}/jobs": RouteAccess.PAGE,
    "/{entity}/{project}/sweeps/{sweep}": RouteAccess.PAGE,
    "/{entity}/{project}/runs/{run}": RouteAccess.PAGE,
    "/{entity}/{project}/runs/{run}/{tab}": RouteAccess.PAGE,
    "/launch/sign-in-links": RouteAccess.KEY,
    "/launch/items/{item}/attempts/{attempt}/logs/{channel}": RouteAccess.KEY,
}
#: The more specific first.
_BELOW: Final = (
    ("/launch/static", RouteAccess.PUBLIC),
    # Signed URLs: any holder of one may use it.
    ("/storage", RouteAccess.PUBLIC),
    ("/artifactsV2", RouteAccess.KEY),
    ("/api/admin", RouteAccess.KEY),
    ("/files", RouteAccess.KEY),
    ("/launch", RouteAccess.PAGE),
)


def access_of(resource: web.AbstractResource | None) -> RouteAccess | None:
    """The policy of a route's resource; `None` when the table has none."""
    path = resource.canonical if resource else ""
    below = (access for prefix, access in _BELOW if f"{path}/".startswith(f"{prefix}/"))
    return _EXACT.get(path) or next(below, None)


def undeclared(app: web.Application) -> list[str]:
    """The routes that the table has no policy for."""
    return sorted(
        {resource.canonical for resource in app.router.resources() if access_of(resource) is None}
    )


@web.middleware
async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Authenticate the caller, and refuse callers that the route's policy does not admit."""
    access = access_of(request.match_info.route.resource)
    check_text(request.path, "The path")
    for name, value in request.query.items():
        check_text(name + value, "The query")
    if access is RouteAccess.SCRAPE:
        return await handler(request) if _may_scrape(request) else _no_scrape_key(request)
    try:
        await authenticate(request)
    except AuthenticationError as error:
        # A browser whose session is over is sent to the sign-in page, as one without any.
        by_cookie = access in _PAGES and "Authorization" not in request.headers
        if access is not RouteAccess.PUBLIC and not by_cookie:
            return _unauthenticated(request, error)
    refusal = _cross_site(request, access) or _refusal(request, access)
    return refusal if refusal is not None else await handler(request)


async def authenticate(request: web.Request) -> None:
    """Set the principal by header, else by cookie.

    Handlers that answer for long call it again: key, role or session may have been taken away.

    Raises:
        AuthenticationError: there is a credential, and it is not valid.
    """
    header = request.headers.get("Authorization")
    if header is not None:
        request[BY_HEADER] = True
        key = _key_in(header)
        found = await request.app[PLANE].accounts.authenticate(key, peer_address(request))
    elif cookie := request.cookies.get(request.app[COOKIE]):
        found = await request.app[PLANE].accounts.resume(cookie, peer_address(request))
    else:
        return
    request[PRINCIPAL] = found


def _may_scrape(request: web.Request) -> bool:
    expected = request.app[SCRAPE_KEY].get_secret_value()
    given = _key_in(request.headers.get("Authorization", ""))
    return bool(expected) and hmac.compare_digest(
        given.encode(errors="surrogatepass"), expected.encode()
    )


def _no_scrape_key(request: web.Request) -> web.Response:
    return error_response(
        request,
        401,
        "UNAUTHENTICATED",
        "Metrics need the scrape key of this server; no other key opens them.",
        hint="Set `control.scrape_key_file`, and send the key as `Authorization: Bearer …`.",
    )


def _key_in(header: str) -> str:
    scheme, _, value = header.partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                text = base64.b64decode(value.strip(), validate=True).decode()
            except ValueError:  # not Base64, not ASCII, or not UTF-8 inside
                text = ""
            return text.partition(":")[2]
        case _:
            return ""


def _cross_site(request: web.Request, access: RouteAccess | None) -> web.Response | None:
    browser = not request.get(BY_HEADER, False) and (
        PRINCIPAL in request or request.path in {"/login", "/logout"}
    )
    if access is None or not is_cross_site(request, by_browser=browser):
        return None
    message = "This request was made by a page of another site."
    return error_response(request, 403, "FORBIDDEN", message, hint="Open this server's own pages.")


def _refusal(request: web.Request, access: RouteAccess | None) -> web.Response | None:
    if access is RouteAccess.PUBLIC:
        return None
    principal = request.get(PRINCIPAL)
    asks_for_page = access is RouteAccess.PAGE or (
        access is RouteAccess.ADDRESS and "text/html" in request.headers.get("Accept", "")
    )
    if principal is None and asks_for_page and request.method in {"GET", "HEAD"}:
        where = f"/login?next={quote(request.path_qs, safe='/')}"
        return web.Response(status=303, headers={"Location": where})
    if principal is None:
        return _unauthenticated(request, AuthenticationError("No API key was sent."))
    if access in _PAGES and principal.kind is not CredentialKind.USER:
        return error_response(request, 403, "FORBIDDEN", "Pages need the key of a user.")
    if access is None:
        return error_response(request, 404, "NOT_FOUND", f"There is nothing at {request.path}.")
    return None


def _unauthenticated(request: web.Request, error: AuthenticationError) -> web.Response:
    """401, or 429 after too many invalid keys; requests without a key are not counted."""
    wait = None
    if "Authorization" in request.headers:
        wait = request.app[THROTTLE].failed(peer_address(request))
    if wait is not None:
        message = "Too many requests with an invalid key came from this address."
        response = error_response(request, 429, "TOO_MANY_TRIES", message, hint=f"Wait {wait} s.")
        response.headers["Retry-After"] = str(wait)
        return response
    return error_response(request, 401, error.code, error.message, hint=error.hint)
