"""Protection of users' browsers: DNS rebinding, cross-site requests, injected content.

A page of another site can make a browser send requests to this server under the site's own
name (DNS rebinding). So a request's `Host` must be a loopback name, the address that it
connected to, the external URL's host, or a name that the administrator listed.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from agent.control.middleware.errors import error_response
from agent.control.request_data import base_url
from agent.system.network import LOOPBACK

_HOST: Final = re.compile(r"(?P<name>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}))?")
_MISDIRECTED: Final = 421

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE: Final = frozenset({"same-origin", "none"})

#: Nothing inline, nothing from other sites, no framing.
_CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class HostRules:
    """The host names that are accepted; ports do not matter, since rebinding is about names."""

    names: frozenset[str]

    @classmethod
    def of(cls, external_url: str | None, allowed: Iterable[str]) -> "HostRules":
        """Loopback names, the external URL's host, and what the administrator allows."""
        external = urlsplit(external_url).hostname if external_url else None
        listed = {_name(entry) or entry.lower() for entry in allowed}
        return cls(LOOPBACK | listed | ({external} if external else set()))

    def admits(self, headers: list[str], local_address: str | None) -> bool:
        """Whether there is exactly one `Host` header, with an accepted name.

        `local_address` is the server's end of the connection, which is accepted when written as a
        number: no name was resolved then.
        """
        name = _name(headers[0]) if len(headers) == 1 else None
        return name is not None and (name in self.names or _same(name, local_address))


HOSTS: Final = web.AppKey("hosts", HostRules)


def _name(host: str) -> str | None:
    match = _HOST.fullmatch(host.lower())
    return match["name"].strip("[]") if match else None


def _same(name: str, local_address: str | None) -> bool:
    try:
        here = ipaddress.ip_address((local_address or "").partition("%")[0])
        return ipaddress.ip_address(name) in {here, getattr(here, "ipv4_mapped", None)}
    except ValueError:
        return False


@web.middleware
async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 421 to requests under a host name that is not this server's."""
    sockname = request.get_extra_info("sockname")
    local = sockname[0] if isinstance(sockname, tuple) else None
    if request.app[HOSTS].admits(request.headers.getall("Host", []), local):
        return await handler(request)
    host = request.headers.get("Host", "")[:80]
    return error_response(
        request,
        _MISDIRECTED,
        "MISDIRECTED",
        f"'{host}' is not a host name of this server.",
        hint="If it is, add the name to `control.allowed_hosts` or set `control.external_url`.",
    )


def is_cross_site(request: web.Request, *, by_browser: bool) -> bool:
    """Whether to refuse a request because a page of another site made it.

    A foreign `Origin` is always refused. Where the browser itself adds the credential (a
    cookie) or there is none yet (sign-in), the browser must also state, by `Sec-Fetch-Site`
    or `Origin`, that the page is of this server; clients with a key in a header send neither.
    """
    if request.method in _SAFE_METHODS:
        return False
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if origin is not None and not _is_own_origin(request, origin):
        return True
    if site is not None and site not in _OWN_SITE:
        return True
    return by_browser and origin is None and site is None


def _is_own_origin(request: web.Request, origin: str) -> bool:
    own = {urlsplit(base_url(request))[:2], (request.scheme, request.host)}
    try:
        return urlsplit(origin)[:2] in own
    except ValueError:
        return False


async def add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler of the app for every response; headers that a handler set stay."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)
