"""What the pages keep in the app."""

from typing import Final

from aiohttp import web

from agent.control.keys import PRINCIPAL
from agent.control.web.render import Renderer

RENDERER: Final = web.AppKey("renderer", Renderer)


def viewer_name(request: web.Request) -> str | None:
    """Who is signed in, as the page's frame shows it."""
    principal = request.get(PRINCIPAL)
    return principal.name if principal else None
