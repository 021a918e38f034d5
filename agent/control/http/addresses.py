"""Under which address the caller reaches us, and from where it calls."""

import ipaddress

from aiohttp import web

from agent.control.keys import CONFIG


def base_url(request: web.Request) -> str:
    """For URLs handed out: `external_url`, else the name we were called by.

    Never from forwarded headers, which anybody may write.
    """
    external = request.app[CONFIG].external_url
    return external.rstrip("/") if external else f"{request.scheme}://{request.host}"


def peer_address(request: web.Request) -> str:
    """The address at the other end of the connection; empty when it is gone."""
    peer = request.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
