"""Every request passes here: host, credential, origin, in this order."""

import base64
from typing import Final
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from agent.control.auth.policy import Kind
from agent.control.http.addresses import is_loopback, peer_address
from agent.control.http.answers import refuse
from agent.control.http.origins import is_foreign
from agent.control.http.policies import Access, access_of
from agent.control.keys import BY_HEADER, HOSTS, PLANE, PRINCIPAL, SESSIONS, THROTTLE
from agent.model.errors import AuthenticationError

_MISDIRECTED: Final = 421


@web.middleware
async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 421 to whoever calls us by a foreign name."""
    sockname = request.get_extra_info("sockname")
    local = sockname[0] if isinstance(sockname, tuple) else None
    if request.app[HOSTS].admits(request.headers.getall("Host", []), local):
        return await handler(request)
    called = request.headers.get("Host", "")[:80]
    return refuse(
        request,
        _MISDIRECTED,
        "MISDIRECTED",
        f"This server is not called '{called}'.",
        hint="If it is, add the name to `control.allowed_hosts` or set `control.external_url`.",
    )


@web.middleware
async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who calls, and refuse whom the route's policy does not admit."""
    access = access_of(request.match_info.route.resource)
    try:
        await _identify(request)
    except AuthenticationError as error:
        # A browser whose session is over is sent to the sign-in page, as one without any.
        by_cookie = access is Access.PAGE and "Authorization" not in request.headers
        if access is not Access.PUBLIC and not by_cookie:
            return _unknown(request, error)
    refusal = _foreign(request, access) or _refusal(request, access)
    return refusal if refusal is not None else await handler(request)


async def _identify(request: web.Request) -> None:
    """Set the principal by header, else by cookie.

    Raises:
        AuthenticationError: a credential came, and it is not valid.
    """
    header = request.headers.get("Authorization")
    plane, sessions = request.app[PLANE], request.app[SESSIONS]
    if header is not None:
        request[BY_HEADER] = True
        request[PRINCIPAL] = await plane.accounts.authenticate(_key_in(header))
        return
    cookie = request.cookies.get(sessions.cookie_name)
    key_id = sessions.check("session", cookie) if cookie else None
    if key_id is not None:
        request[PRINCIPAL] = await plane.accounts.resume(key_id)


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


def _foreign(request: web.Request, access: Access | None) -> web.Response | None:
    browser = not request.get(BY_HEADER, False) and (
        PRINCIPAL in request or request.path in {"/login", "/logout"}
    )
    if access is None or not is_foreign(request, by_browser=browser):
        return None
    message = "This request was made by a page of another site."
    return refuse(request, 403, "FORBIDDEN", message, hint="Open this server's own pages.")


def _refusal(request: web.Request, access: Access | None) -> web.Response | None:
    if access is Access.PUBLIC:
        return None
    if access is Access.PROBE and is_loopback(peer_address(request)):
        return None
    principal = request.get(PRINCIPAL)
    if principal is None:
        return _anonymous(request, access)
    if access is Access.PAGE and principal.kind is not Kind.USER:
        return refuse(request, 403, "FORBIDDEN", "Pages are for people: use a user's key.")
    if access is None:
        return refuse(request, 404, "NOT_FOUND", f"There is nothing at {request.path}.")
    return None


def _anonymous(request: web.Request, access: Access | None) -> web.Response:
    """Browsers are shown where to sign in; everybody else learns that a key is missing."""
    if access is Access.PAGE and request.method in {"GET", "HEAD"}:
        where = f"/login?next={quote(request.path_qs, safe='/')}"
        return web.Response(status=303, headers={"Location": where})
    return _unknown(request, AuthenticationError("No API key was sent."))


def _unknown(request: web.Request, error: AuthenticationError) -> web.Response:
    """401, or 429 after too many; only keys that came and were wrong are counted."""
    wait = None
    if "Authorization" in request.headers:
        wait = request.app[THROTTLE].failed(peer_address(request))
    if wait is not None:
        message = "Too many tries with a wrong key from this address."
        answer = refuse(request, 429, "TOO_MANY_TRIES", message, hint=f"Wait {wait} s.")
        answer.headers["Retry-After"] = str(wait)
        return answer
    return refuse(request, 401, error.code, error.message, hint=error.hint)
