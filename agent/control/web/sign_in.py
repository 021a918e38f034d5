"""Sign-in of users: by API key on a page, or by a link that an agent or the CLI prints."""

from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from agent.control.auth.authentication import LIFETIME
from agent.control.auth.policy import CredentialKind
from agent.control.bodies import read_form
from agent.control.request_data import (
    BY_HEADER,
    CONFIG,
    COOKIE,
    PLANE,
    PRINCIPAL,
    THROTTLE,
    base_url,
    peer_address,
    principal_of,
)
from agent.control.web.rendering import RENDERER, page
from agent.model.errors import AuthenticationError, PermissionDeniedError

#: Values of `?failed=`, by which a redirect states why the form is shown again.
_FAILURES: Final = {
    "key": "This server does not know that key.",
    "kind": "That is not the key of a user.",
    "throttled": "Too many attempts with an invalid key; wait a minute.",
    "link": "That link was used already, or has expired. Ask for a new one.",
}


async def sign_in_page(request: web.Request) -> web.StreamResponse:
    """`GET /login`: the form."""
    failed = request.query.get("failed")
    return request.app[RENDERER].page(
        "login.html",
        user=None,
        message=_FAILURES.get(failed, "Sign-in failed; try again.") if failed else None,
        next=request.query.get("next", "/launch"),
    )


async def about_keys(request: web.Request) -> web.StreamResponse:
    """How to get an API key: where `wandb login` sends its users."""
    return page(request, "about_keys.html", "", address=base_url(request))


async def sign_in(request: web.Request) -> web.Response:
    """`POST /login` with form fields `key` and `next`; redirects to the form on failure."""
    form = await read_form(request)
    key, target = form.get("key", "").strip(), form.get("next", "")
    address = peer_address(request)
    try:
        principal = await request.app[PLANE].accounts.authenticate(key, address)
    except AuthenticationError:
        wait = request.app[THROTTLE].failed(address)
        if wait is None:
            await request.app[PLANE].accounts.refused_sign_in(address)
        return _failed("throttled" if wait else "key")
    if principal.kind is not CredentialKind.USER:
        return _failed("kind")
    session = await request.app[PLANE].accounts.sign_in(principal)
    return _signed_in(request, session, target)


async def sign_in_by_link(request: web.Request) -> web.Response:
    """`GET /login/link?token=…`; works once."""
    token, address = request.query.get("token", ""), peer_address(request)
    session = await request.app[PLANE].accounts.follow_link(token, address)
    if session is None:
        return _failed("link")
    return _signed_in(request, session, request.query.get("next", ""))


async def create_link(request: web.Request) -> web.Response:
    """`POST /launch/sign-in-links`: a link that signs a browser in as the caller.

    A session makes none: a stolen cookie would get itself a fresh sign-in.
    """
    principal = principal_of(request)
    if principal.kind is not CredentialKind.USER or not request.get(BY_HEADER, False):
        raise PermissionDeniedError("Only the key of a user can create a sign-in link.")
    token = await request.app[PLANE].accounts.create_link(principal)
    return web.json_response({"url": f"{base_url(request)}/login/link?token={token}"})


async def sign_out(request: web.Request) -> web.Response:
    """`POST /logout`."""
    cookie = request.cookies.get(request.app[COOKIE])
    if cookie:
        await request.app[PLANE].accounts.sign_out(cookie, request.get(PRINCIPAL))
    response = _redirect("/login")
    response.del_cookie(request.app[COOKIE], path="/")
    return response


def _signed_in(request: web.Request, session: str, target: str) -> web.Response:
    response = _redirect(target if _is_own_path(target) else "/launch")
    response.set_cookie(
        request.app[COOKIE],
        session,
        max_age=LIFETIME["session"],
        path="/",
        httponly=True,
        samesite="Strict",
        secure=(request.app[CONFIG].external_url or "").startswith("https:"),
    )
    return response


def _failed(reason: str) -> web.Response:
    return _redirect(f"/login?failed={reason}")


def _redirect(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})


def _is_own_path(path: str) -> bool:
    """Whether it is a path on this server, and cannot be read as another site's address."""
    if not path.startswith("/") or path.startswith("//") or "\\" in path:
        return False
    parts = urlsplit(path)
    return not parts.scheme and not parts.netloc and path.isprintable()
