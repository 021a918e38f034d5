"""Small files that a source names by URL: requirement files that others include."""

import socket
from concurrent.futures import Executor
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.address_policy import AddressPolicy
from agent.sources.git.remote import Remote

_LARGEST: Final = 1024 * 1024
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30.0)
_MOST_REDIRECTS: Final = 5
_OK: Final = 200
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PORTS: Final = {"http": 80, "https": 443}
_CURE: Final = "Copy the file into the source, and include the copy."


class TextFileFetcher:
    """Fetches files over HTTP; every address, also of redirects, passes the address policy."""

    def __init__(self, policy: AddressPolicy, threads: Executor) -> None:
        self._policy = policy
        self._threads = threads

    async def fetch(self, url: str) -> bytes:
        """The content of a file of at most 1 MiB.

        Raises:
            PolicyError: `POLICY_SOURCE`: an address is not allowed.
            JobError: `SOURCE_UNREACHABLE`.
        """
        location = url
        for _ in range(_MOST_REDIRECTS + 1):
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
        if parts.scheme not in _PORTS or not parts.hostname:
            message = f"URL '{url}' is none of HTTP."
            raise PolicyError(Cause.POLICY_SOURCE, message, hint=_CURE)
        port = parts.port or _PORTS[parts.scheme]
        remote = Remote(parts.scheme, parts.hostname, port, None, parts.path or "/")
        try:
            addresses = await self._policy.addresses(remote, self._threads)
        except PolicyError as error:
            message = error.message.removeprefix("Git ")
            raise PolicyError(error.cause, message, hint=error.hint or _CURE) from None
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
                    if len(body) > _LARGEST:
                        raise _unreachable(url, f"it is larger than {_LARGEST // 1024**2} MiB")
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
