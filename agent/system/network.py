"""Loopback hosts, and hosts that the environment exempts from its proxies."""

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

#: Names under which local servers are called.
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str | None) -> bool:
    """Whether a host, without port, is `localhost` or a loopback address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def bypasses_proxy(host: str, environment: Mapping[str, str]) -> bool:
    """Whether `NO_PROXY` of the environment names a host (`host` or `host:port`) or a parent."""
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return bool(proxy_bypass_environment(host, {"no": listed}))
