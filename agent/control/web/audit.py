"""The page of the audit log, for administrators."""

from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from agent.control.request_data import PLANE, principal_of
from agent.control.web.rendering import page

_PAGE: Final = 100


async def audit(request: web.Request) -> web.StreamResponse:
    """Entries of an entity (`?entity=NAME`) or of the whole server, newest first."""
    entity, after = request.query.get("entity") or None, request.query.get("after") or None
    plane, principal = request.app[PLANE], principal_of(request)
    found = await plane.audit.list(principal, entity, after=after, first=_PAGE)
    named = {"entity": entity} if entity else {}
    older = urlencode({**named, "after": found.end_cursor or ""})
    return page(
        request,
        "audit.html",
        urlencode(named),
        entity=entity,
        entries=found.rows,
        first_page=f"?{urlencode(named)}" if after else None,
        more=f"?{older}" if found.has_next else None,
    )
