"""How signing in looks; keys, cookies and links are `agent.control.http.signin`'s."""

from typing import Final

from aiohttp import web

from agent.control.web.keys import RENDERER

_FAILED: Final = {
    "key": "This server does not know that key.",
    "kind": "That is not a user's key; pages are for people.",
    "throttled": "Too many tries with a wrong key; wait a minute.",
    "link": "That link was used already, or is too old. Ask for a new one.",
}


async def sign_in(request: web.Request) -> web.StreamResponse:
    """The form; `?failed=` says why it is shown again."""
    failed = request.query.get("failed")
    return request.app[RENDERER].page(
        "login.html",
        user=None,
        message=_FAILED.get(failed, "That did not work; try again.") if failed else None,
        next=request.query.get("next", "/launch"),
    )
