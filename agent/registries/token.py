"""Short-lived tokens for registries that want them."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from agent.ports.registry import Credentials
from agent.registries.challenge import Challenge, basic
from agent.registries.route import proxy_for

_OK: Final = 200
_CLIENT: Final = "launch-agent"


async def fetch_token(
    session: aiohttp.ClientSession,
    challenge: Challenge,
    login: Credentials | None,
    path: str,
    registry: str,
    environment: Mapping[str, str],
) -> str | None:
    """Ask the server that the registry names; `None` when it refuses.

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
