"""How signing in looks; cookies and links are `agent.control.http`'s."""

from aiohttp import web

from agent.control.web.keys import RENDERER


def sign_in_page(
    request: web.Request,
    *,
    next_path: str = "/launch",
    message: str | None = None,
    token: str | None = None,
    status: int = 200,
) -> web.Response:
    """The form that posts `key` and `next` to `/login`.

    With the `token` of a one-time link it asks for one press of a button instead, so that a
    link that a chat program looks into is not used up by it.
    """
    return request.app[RENDERER].page(
        "login.html",
        user=None,
        status=status,
        message=message,
        next=next_path,
        token=token,
    )
