"""The way to a registry: address, and the proxy before it."""

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

#: Docker Hub answers its API under another name than its images bear.
_HUB: Final = "https://registry-1.docker.io"


def is_hub(host: str | None) -> bool:
    """Whether a reference's host means Docker Hub, as one without a host does."""
    return host in {None, "docker.io", "index.docker.io"}


def base_url(host: str | None) -> str:
    """Scheme and host of a registry's API."""
    if is_hub(host):
        return _HUB
    return f"{'http' if _loopback(host or '') else 'https'}://{host}"


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """What the agent's environment says about the way there."""
    parts = urlsplit(url)
    name = f"{parts.scheme}_proxy"
    found = environment.get(name) or environment.get(name.upper())
    if not found or _loopback(parts.netloc):
        return None
    no_proxy = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    bypassed = proxy_bypass(parts.netloc, {"no": no_proxy})
    return None if bypassed else found


def _loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
