"""Sign-in of people: by key on the page, by a link that an agent or the CLI shows."""

from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from agent.control.auth.policy import Kind
from agent.control.http.addresses import base_url, peer_address
from agent.control.keys import CONFIG, PLANE, SESSIONS, THROTTLE, principal_of
from agent.model.errors import AuthenticationError, PermissionDeniedError

_WEEK: Final = 7 * 86400


async def sign_in(request: web.Request) -> web.Response:
    """`POST /login` with form fields `key` and `next`; back to the form when it is wrong."""
    form = await request.post()
    key, wanted = str(form.get("key", "")).strip(), str(form.get("next", ""))
    try:
        principal = await request.app[PLANE].accounts.authenticate(key)
    except AuthenticationError:
        wait = request.app[THROTTLE].failed(peer_address(request))
        return _failed("throttled" if wait else "key")
    if principal.kind is not Kind.USER:
        return _failed("kind")
    return _signed_in(request, principal.key_id, wanted)


async def sign_in_by_link(request: web.Request) -> web.Response:
    """`GET /login/link?token=…`; works once."""
    sessions, token = request.app[SESSIONS], request.query.get("token", "")
    key_id = sessions.check("link", token)
    if key_id is None:
        return _failed("link")
    sessions.spend(token)
    return _signed_in(request, key_id, request.query.get("next", ""))


async def make_link(request: web.Request) -> web.Response:
    """`POST /launch/sign-in-links`: a link that signs the caller in, in a browser."""
    principal = principal_of(request)
    if principal.kind is not Kind.USER:
        raise PermissionDeniedError("Only a user's key can make a sign-in link.")
    token = request.app[SESSIONS].issue("link", principal.key_id)
    return web.json_response({"url": f"{base_url(request)}/login/link?token={token}"})


async def sign_out(request: web.Request) -> web.Response:
    """`POST /logout`."""
    sessions = request.app[SESSIONS]
    cookie = request.cookies.get(sessions.cookie_name)
    if cookie:
        sessions.spend(cookie)
    answer = _to("/login")
    answer.del_cookie(sessions.cookie_name, path="/")
    return answer


def _signed_in(request: web.Request, key_id: str, wanted: str) -> web.Response:
    sessions = request.app[SESSIONS]
    answer = _to(wanted if _is_own_path(wanted) else "/launch")
    answer.set_cookie(
        sessions.cookie_name,
        sessions.issue("session", key_id),
        max_age=_WEEK,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=(request.app[CONFIG].external_url or "").startswith("https:"),
    )
    return answer


def _failed(why: str) -> web.Response:
    return _to(f"/login?failed={why}")


def _to(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})


def _is_own_path(path: str) -> bool:
    """A path of ours, and no way to write another site's address as one."""
    if not path.startswith("/") or path.startswith("//") or "\\" in path:
        return False
    parts = urlsplit(path)
    return not parts.scheme and not parts.netloc and path.isprintable()
