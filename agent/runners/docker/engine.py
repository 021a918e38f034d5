"""The engine's HTTP API over aiohttp: short calls, and streams that may last for days."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.system.connections import Connections
from agent.system.engine_address import Address

#: Seconds for one call. Generous: a start on a slow disk takes its time, and a call that is
#: given up may still take effect.
_CALL: Final = 120.0
_CONNECT: Final = 10.0
_OK: Final = 300


class EngineAwayError(JobError):
    """The engine cannot be reached, or the connection broke before its answer."""

    def __init__(self, address: str, why: str) -> None:
        message = f"The container engine at {address} does not answer: {why}."
        hint = "See whether it runs: `docker info`."
        super().__init__(Cause.LOST_ENGINE, message, hint=hint)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and JSON of an answer: an object or a list, empty where there was none."""

    status: int
    body: dict[str, Any]
    rows: Sequence[dict[str, Any]] = ()

    @property
    def ok(self) -> bool:
        """Whether it did what was asked."""
        return self.status < _OK

    @property
    def message(self) -> str:
        """The engine's words about a failure."""
        return str(self.body.get("message") or f"status {self.status}")


class Engine:
    """One engine. `close` when done; it opens its connections when they are needed."""

    def __init__(self, address: Address) -> None:
        self.address = address
        # Every running job holds two connections (wait, logs).
        self._connections = Connections(address.session)

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
        limit: float | None = _CALL,
    ) -> Answer:
        """One request; `limit` in seconds, `None` for calls that wait for a job.

        Raises:
            EngineAwayError: no connection, no answer in time, or a cut one.
        """
        timeout = aiohttp.ClientTimeout(total=limit, sock_connect=_CONNECT)
        url = self.address.url + path
        session = self._connections.session
        try:
            async with session.request(
                method, url, params=params, json=body, timeout=timeout
            ) as response:
                text = await response.read()
                parsed = await response.json(content_type=None) if text else {}
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.away(error) from error
        except ValueError:
            parsed = {}
        if isinstance(parsed, list):
            return Answer(response.status, {}, parsed)
        return Answer(response.status, parsed if isinstance(parsed, dict) else {})

    async def asked(self, path: str, params: Mapping[str, str] | None = None) -> Answer:
        """A look at what must be there.

        Raises:
            EngineAwayError: as `call`; also when it answers with a failure of its own.
        """
        answer = await self.call("GET", path, params=params)
        if not answer.ok:
            raise EngineAwayError(self.address.given, answer.message)
        return answer

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response to be read piece by piece, as long as it lasts.

        Raises:
            EngineAwayError: as `call`; also out of the block that reads.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT)
        url = self.address.url + path
        session = self._connections.session
        try:
            async with session.get(url, params=params, timeout=timeout) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.away(error) from error

    async def until_back(self, patience: float, pause: float = 0.5) -> bool:
        """Ask until it answers, at most `patience` seconds; whether it did."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while not await self._answers():
            if loop.time() + pause > deadline:
                return False
            await asyncio.sleep(pause)
        return True

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    def away(self, error: BaseException) -> EngineAwayError:
        """The error for a broken connection."""
        why = "it took too long" if isinstance(error, TimeoutError) else str(error)
        return EngineAwayError(self.address.given, why or type(error).__name__)

    async def _answers(self) -> bool:
        try:
            return (await self.call("GET", "/_ping", limit=5.0)).ok
        except EngineAwayError:
            return False
