"""HTTP access to a registry: address, proxy, challenge and token."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDictProxy

from agent.model.job.image_reference import is_docker_hub
from agent.ports.registry import Credentials
from agent.system.network import bypasses_proxy, is_loopback

#: Docker Hub's API has another host name than its images.
_HUB: Final = "https://registry-1.docker.io"
_PARAMETER: Final = re.compile(r'([a-zA-Z_]+)="([^"]*)"')
_OK: Final = 200
_CLIENT: Final = "launch-agent"


def base_url(host: str | None) -> str:
    """Scheme and host of a registry's API."""
    if is_docker_hub(host):
        return _HUB
    local = is_loopback(urlsplit(f"//{host}").hostname)
    return f"{'http' if local else 'https'}://{host}"


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for a URL; `None` for a direct connection."""
    parts = urlsplit(url)
    name = f"{parts.scheme}_proxy"
    found = environment.get(name) or environment.get(name.upper())
    if not found or is_loopback(parts.hostname):
        return None
    return None if bypasses_proxy(parts.netloc, environment) else found


@dataclass(frozen=True, slots=True)
class Challenge:
    """One `WWW-Authenticate`."""

    scheme: Literal["basic", "bearer"]
    #: URL of the token server; `bearer` only.
    realm: str = ""
    service: str = ""
    scope: str = ""


def read_challenge(headers: CIMultiDictProxy[str]) -> Challenge | None:
    """The preferred challenge: a token before a password."""
    offered = [_one(value) for value in headers.getall("WWW-Authenticate", [])]
    known = [challenge for challenge in offered if challenge is not None]
    return next((c for c in known if c.scheme == "bearer"), known[0] if known else None)


def basic(username: str, password: str) -> str:
    """The value of an `Authorization` header."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def _one(value: str) -> Challenge | None:
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() == "basic":
        return Challenge("basic")
    found = dict(_PARAMETER.findall(rest))
    if scheme.lower() != "bearer" or not found.get("realm"):
        return None
    return Challenge("bearer", found["realm"], found.get("service", ""), found.get("scope", ""))


async def fetch_token(
    session: aiohttp.ClientSession,
    challenge: Challenge,
    login: Credentials | None,
    path: str,
    registry: str,
    environment: Mapping[str, str],
) -> str | None:
    """A token of the server that the registry names; `None` when it refuses.

    A login goes over TLS only, unless the registry itself (`registry`, an address) is spoken
    to without: then both are on this machine.
    """
    if urlsplit(challenge.realm).scheme != "https" and registry.startswith("https:"):
        return None
    scope = challenge.scope or f"repository:{path}:pull"
    query = {"service": challenge.service, "scope": scope}
    proxy = proxy_for(challenge.realm, environment)
    more: dict[str, Any] = {"proxy": proxy, "allow_redirects": False}
    if login is not None and login.identity_token:
        form = {
            **query,
            "grant_type": "refresh_token",
            "refresh_token": login.identity_token,
            "client_id": _CLIENT,
        }
        request = session.post(challenge.realm, data=form, **more)
    else:
        headers = {"Authorization": basic(login.username, login.password)} if login else {}
        request = session.get(challenge.realm, params=query, headers=headers, **more)
    async with request as answer:
        if answer.status != _OK:
            return None
        try:
            body = await answer.json(content_type=None)
        except ValueError:
            return None
    found = (body.get("token") or body.get("access_token")) if isinstance(body, dict) else None
    return str(found) if found else None
