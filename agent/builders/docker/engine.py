"""The part of the engine's API that images need, over its own socket, without threads."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from agent.system.connections import Connections
from agent.system.engine_address import address_of

#: Seconds for an answer; streams have their own limit.
_ANSWER: Final = 60.0
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_FAILED: Final = 400


class EngineAwayError(Exception):
    """The engine does not answer."""


class EngineRefusedError(Exception):
    """The engine answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image as the engine has it."""

    id: str
    tags: tuple[str, ...]
    #: `name@sha256:…`; empty where the engine's store keeps no digests of local images.
    digests: tuple[str, ...]
    os: str
    architecture: str
    size: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Platform:
    """What the engine runs."""

    os: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


class Engine:
    """One engine by its address; `async with` closes its connections.

    Raises `ConfigError` for an address that is none and, from every call, `EngineAwayError`
    and, where the engine refuses, `EngineRefusedError`.
    """

    def __init__(self, host: str | None, environment: Mapping[str, str]) -> None:
        self._address = address_of(host, environment)
        self._connections = Connections(self._address.session)

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

    @property
    def host(self) -> str:
        """Its address, as `DOCKER_HOST` takes it."""
        return self._address.given

    async def platform(self) -> Platform:
        """Operating system and architecture of the engine."""
        version = await self._json("GET", "/version")
        return Platform(version["Os"], version["Arch"])

    async def driver_status(self) -> frozenset[str]:
        """What the engine says about its image store."""
        info = await self._json("GET", "/info")
        return frozenset(value for _, value in info.get("DriverStatus") or ())

    async def image(self, reference: str) -> ImageFacts | None:
        """A local image by name, digest or id."""
        try:
            raw = await self._json("GET", f"/images/{reference}/json")
        except EngineRefusedError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        return ImageFacts(
            id=raw["Id"],
            tags=tuple(raw.get("RepoTags") or ()),
            digests=tuple(raw.get("RepoDigests") or ()),
            os=raw.get("Os") or "",
            architecture=raw.get("Architecture") or "",
            size=raw.get("Size") or 0,
            labels=(raw.get("Config") or {}).get("Labels") or {},
        )

    async def labelled(self, label: str) -> list[dict[str, Any]]:
        """Local images with a label (`key` or `key=value`), as the engine lists them."""
        filters = json.dumps({"label": [label]})
        found: list[dict[str, Any]] = await self._json("GET", "/images/json", filters=filters)
        return found

    async def last_tagged(self, image_id: str) -> str:
        """When the image last got a tag: an RFC 3339 text; empty when unknown."""
        raw = await self._json("GET", f"/images/{image_id}/json")
        return str((raw.get("Metadata") or {}).get("LastTagTime") or raw.get("Created") or "")

    async def tag(self, image: str, repository: str, tag: str) -> None:
        """Name an image; naming it again renews the time of its last tag."""
        await self._json("POST", f"/images/{image}/tag", repo=repository, tag=tag)

    async def remove(self, reference: str) -> bool:
        """Remove a name, and the image with its last; false while a container uses it."""
        try:
            await self._json("DELETE", f"/images/{reference}")
        except EngineRefusedError as error:
            if error.status in {_NOT_FOUND, _CONFLICT}:
                return False
            raise
        return True

    async def prune_build_cache(self, max_age: float, keep_bytes: int) -> int:
        """Remove build cache that nothing uses; give the bytes freed.

        Unused for longer than `max_age` seconds, or beyond `keep_bytes`; 0 leaves a
        measure out.
        """
        freed = 0
        if max_age > 0:
            until = json.dumps({"until": {f"{int(max_age)}s": True}})
            answer = await self._json("POST", "/build/prune", filters=until, all="true")
            freed += answer.get("SpaceReclaimed") or 0
        if keep_bytes > 0:
            kept = {"keep-storage": str(keep_bytes), "all": "true"}
            answer = await self._json("POST", "/build/prune", **kept)
            freed += answer.get("SpaceReclaimed") or 0
        return freed

    async def events(
        self, path: str, *, auth: str | None, idle: float, **query: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        """POST and read the answer's JSON lines; `idle` seconds of silence end it.

        Raises:
            TimeoutError: the silence.
        """
        headers = {"X-Registry-Auth": auth} if auth else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=idle)
        async with self._request("POST", path, query, headers, timeout) as answer:
            async for line in answer.content:
                if line.strip():
                    yield json.loads(line)

    async def _json(self, method: str, path: str, **query: str) -> Any:
        timeout = aiohttp.ClientTimeout(total=_ANSWER)
        try:
            async with self._request(method, path, query, {}, timeout) as answer:
                body = await answer.read()
        except TimeoutError:
            raise EngineAwayError(f"no answer within {_ANSWER:g} s") from None
        return json.loads(body) if body.strip() else None

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 -- aiohttp's own, for its parts
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session = self._connections.session
        try:
            async with session.request(
                method, self._address.url + path, params=query, headers=headers, timeout=timeout
            ) as answer:
                if answer.status >= _FAILED:
                    raise EngineRefusedError(answer.status, await _message(answer))
                yield answer
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise EngineAwayError(self._reason(error)) from None

    def _reason(self, error: Exception) -> str:
        """The system's own words where no connection was made; aiohttp's speak of its insides."""
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
        if cause is None:
            return str(error)
        return f"{self.host}: {cause.strerror or cause}"


async def _message(answer: aiohttp.ClientResponse) -> str:
    body = await answer.text(errors="replace")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip() or answer.reason or str(answer.status)
