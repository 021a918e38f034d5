"""Requests that change something must not come from another site's page."""

from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from agent.control.http.addresses import base_url

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE: Final = frozenset({"same-origin", "none"})


def is_foreign(request: web.Request, *, by_browser: bool) -> bool:
    """Whether to refuse a request for where it was made.

    A foreign `Origin` is always refused. Where the browser itself adds the credential (a
    cookie) or there is none yet (sign-in), the browser must also say, by `Sec-Fetch-Site` or
    `Origin`, that the page is ours; clients with a key in a header say neither.
    """
    if request.method in _SAFE:
        return False
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if origin is not None and not _is_own(request, origin):
        return True
    if site is not None and site not in _OWN_SITE:
        return True
    return by_browser and origin is None and site is None


def _is_own(request: web.Request, origin: str) -> bool:
    own = {urlsplit(base_url(request))[:2], (request.scheme, request.host)}
    return urlsplit(origin)[:2] in own
