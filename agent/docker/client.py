"""The engine's HTTP API over aiohttp: calls, and streams that may last for days."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from agent.docker.address import engine_address
from agent.docker.errors import EngineRefusedError, EngineUnavailableError
from agent.system.lazy_session import LazySession

#: Seconds for one call. Generous: a start on a slow disk takes its time, and a call that is
#: given up may still take effect.
_CALL: Final = 120.0
_CONNECT: Final = 10.0
_ERROR_STATUS: Final = 300


@dataclass(frozen=True, slots=True)
class EngineResponse:
    """Status and JSON body: an object or a list; both empty where there was no body."""

    status: int
    body: dict[str, Any]
    rows: Sequence[dict[str, Any]] = ()

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.status < _ERROR_STATUS

    @property
    def message(self) -> str:
        """The engine's message about a failure."""
        return str(self.body.get("message") or f"status {self.status}")


class Engine:
    """One engine by its address. `async with` or `close` closes its connections.

    `host` as `DOCKER_HOST` takes it; without it the environment decides. Connections are
    opened when first needed.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(
        self, host: str | None = None, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.address = engine_address(host, environment)
        # Without a limit: every running job holds two connections (wait, logs).
        self._connections = LazySession(self.address.session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; legal twice, and before the first call."""
        await self._connections.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
        limit: float | None = _CALL,
    ) -> EngineResponse:
        """One request; error statuses are returned, not raised.

        `limit` in seconds; `None` for calls that wait for a job.

        Raises:
            EngineUnavailableError: no connection, no response in time, or a cut one.
        """
        timeout = aiohttp.ClientTimeout(total=limit, sock_connect=_CONNECT)
        try:
            async with self._connections.session.request(
                method, self.address.url + path, params=params, json=body, timeout=timeout
            ) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unavailable(error) from error
        return _parsed(response.status, text)

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> EngineResponse:
        """A call that must succeed.

        Raises:
            EngineUnavailableError: as `call`.
            EngineRefusedError: an error status.
        """
        return await self.expect("GET", path, params)

    async def expect(
        self, method: str, path: str, params: Mapping[str, str] | None = None
    ) -> EngineResponse:
        """As `get`, with any method."""
        response = await self.call(method, path, params=params)
        if not response.ok:
            raise EngineRefusedError(self.address.given, response.status, response.message)
        return response

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of any status whose body is read piece by piece, without a time limit.

        Raises:
            EngineUnavailableError: as `call`; also out of the block that reads.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT)
        try:
            async with self._connections.session.get(
                self.address.url + path, params=params, timeout=timeout
            ) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unavailable(error) from error

    async def events(
        self, path: str, params: Mapping[str, str], *, auth: str | None, idle: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """POST, and yield the JSON lines of the response (pull, push).

        `auth` is the value of `X-Registry-Auth`; `idle` in seconds without a byte.

        Raises:
            EngineUnavailableError: as `call`.
            EngineRefusedError: an error status.
            TimeoutError: `idle` passed.
        """
        headers = {"X-Registry-Auth": auth} if auth else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=idle)
        url = self.address.url + path
        try:
            async with self._connections.session.post(
                url, params=params, headers=headers, timeout=timeout
            ) as response:
                if response.status >= _ERROR_STATUS:
                    refused = _parsed(response.status, await response.read())
                    raise EngineRefusedError(self.address.given, refused.status, refused.message)
                async for line in response.content:
                    if line.strip():
                        yield json.loads(line)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(error) from error

    async def wait_until_reachable(self, outage_timeout: float, pause: float = 0.5) -> bool:
        """Ping every `pause` seconds, at most `outage_timeout` seconds; whether it responded."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + outage_timeout
        while not await self._pings():
            if loop.time() + pause > deadline:
                return False
            await asyncio.sleep(pause)
        return True

    async def _pings(self) -> bool:
        try:
            return (await self.call("GET", "/_ping", limit=5.0)).ok
        except EngineUnavailableError:
            return False

    def _unavailable(self, error: BaseException) -> EngineUnavailableError:
        reason = str(error)
        if isinstance(error, TimeoutError):
            reason = "it took too long"
        elif isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
            reason = error.os_error.strerror
        unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        return EngineUnavailableError(
            self.address.given, reason or type(error).__name__, sent=not unsent
        )


def _parsed(status: int, text: bytes) -> EngineResponse:
    try:
        parsed = json.loads(text) if text.strip() else {}
    except ValueError:
        parsed = {"message": text.decode("utf-8", "replace").strip()}
    if isinstance(parsed, list):
        return EngineResponse(status, {}, parsed)
    return EngineResponse(status, parsed if isinstance(parsed, dict) else {})
