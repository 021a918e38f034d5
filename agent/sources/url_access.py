"""URLs that a job's requirements name: checked, fetched, or fetched by uv through a proxy."""

import re
import socket
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.address_policy import AddressPolicy
from agent.sources.address_proxy import address_proxy
from agent.sources.git.remote import Remote, without_credentials

_MAX_RESPONSE_BYTES: Final = 1024 * 1024
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30.0)
_MAX_REDIRECTS: Final = 5
_OK: Final = 200
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PORTS: Final = {"http": 80, "https": 443, "ssh": 22}
_HOST: Final = re.compile(r"[a-z0-9:._-]+")
_ALLOWED: Final = "Use https, or copy the package into the source."
_CURE: Final = "Copy the file into the source, and include the copy."


class UrlAccess:
    """`UrlPort` with the address policy, which holds for redirects, too."""

    def __init__(self, policy: AddressPolicy, threads: Executor) -> None:
        self._policy = policy
        self._threads = threads

    async def check(self, url: str) -> None:
        """See `UrlPort`."""
        scheme, _, rest = url.partition("://")
        scheme = scheme.lower().removeprefix("git+")
        if scheme not in _PORTS:
            message = f"URL '{without_credentials(url)}' has a protocol that is not allowed."
            raise PolicyError(Cause.POLICY_SOURCE, message, hint=_ALLOWED)
        try:
            parts = urlsplit(f"{scheme}://{rest}")
            host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS[scheme]
        except ValueError:
            host = ""
        # A backslash is a slash for some programs, and then the host is another one.
        if not _HOST.fullmatch(host) or "\\" in url:
            message = f"URL '{without_credentials(url)}' names no valid host."
            raise PolicyError(Cause.POLICY_SOURCE, message)
        try:
            await self._policy.checked_addresses(
                Remote(scheme, host, port, None, "/"), self._threads
            )
        except PolicyError:
            raise
        except JobError:
            return  # with a proxy, perhaps only that can resolve it; else the program will fail

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[dict[str, str]]:
        """See `UrlPort`."""
        async with address_proxy(self._policy, self._threads, plain=True) as (_, url):
            names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
            variables = {each: url for name in names for each in (name, name.lower())}
            # Git may use no local files, and nothing that knows no proxy but SSH.
            variables |= {"NO_PROXY": "", "no_proxy": "", "GIT_ALLOW_PROTOCOL": "https:http:ssh"}
            yield variables

    async def fetch(self, url: str) -> bytes:
        """The content of a file of at most 1 MiB.

        Raises:
            PolicyError: `POLICY_SOURCE`: an address is not allowed.
            JobError: `SOURCE_UNREACHABLE`.
        """
        location = url
        for _ in range(_MAX_REDIRECTS + 1):
            status, result = await self._get(location)
            if status not in _REDIRECTS:
                break
            location = urljoin(location, result.decode("ascii", "replace"))
        if status == _OK:
            return result
        raise _unreachable(url, f"the server responds with status {status}")

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Status, and body or target of the redirect."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            message = f"URL '{url}' is none of HTTP."
            raise PolicyError(Cause.POLICY_SOURCE, message, hint=_CURE)
        port = parts.port or _PORTS[parts.scheme]
        remote = Remote(parts.scheme, parts.hostname, port, None, parts.path or "/")
        try:
            addresses = await self._policy.checked_addresses(remote, self._threads)
        except PolicyError as error:
            raise PolicyError(error.cause, error.message, hint=error.hint or _CURE) from None
        connector = aiohttp.TCPConnector(resolver=_Pinned(addresses), use_dns_cache=False)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session,
                session.get(url, allow_redirects=False) as response,
            ):
                if response.status in _REDIRECTS:
                    return response.status, response.headers.get("Location", "").encode()
                body = bytearray()
                async for chunk in response.content.iter_chunked(64 * 1024):
                    body += chunk
                    if len(body) > _MAX_RESPONSE_BYTES:
                        raise _unreachable(
                            url, f"it is larger than {_MAX_RESPONSE_BYTES // 1024**2} MiB"
                        )
                return response.status, bytes(body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(url, str(error) or "no response in time") from None


class _Pinned(AbstractResolver):
    """Resolves every name to the addresses that were checked."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family
        return [self._one(host, port, address) for address in self._addresses]

    async def close(self) -> None:
        """There is nothing to close."""

    def _one(self, host: str, port: int, address: str) -> Any:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return ResolveResult(
            hostname=host, host=address, port=port, family=family, proto=0,
            flags=socket.AI_NUMERICHOST,
        )  # fmt: skip


def _unreachable(url: str, why: str) -> JobError:
    message = f"File '{url}' cannot be fetched: {why.rstrip('.')}."
    return JobError(Cause.SOURCE_UNREACHABLE, message, hint=_CURE)
