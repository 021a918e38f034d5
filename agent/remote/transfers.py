"""Signed URLs: sending files to them and reading from them, without our key.

Such a URL carries its own right, and may belong to an object store that must not see the key.
Contents are streamed and hashed on the way; nothing is held in memory whole.
"""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self, TypeVar

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential
from yarl import URL

from agent.model.errors import InvalidInputError, ServerError
from agent.model.job.digest import encoded
from agent.remote.failures import STATUS_RULES, UnansweredError, error_of_status, rule_for

Result = TypeVar("Result")

_PIECE: Final = 1 << 20
#: Seconds without a byte moving, in either direction.
_SILENCE: Final = 60.0
_TRIES: Final = 5
_GOOD: Final = range(200, 300)


@dataclass(frozen=True, slots=True)
class Content:
    """One file of an artifact: its path there, and what is in it."""

    path: str
    #: Base64 of the MD5 of the content.
    digest: str
    size: int
    #: Where the content lies; a file, or the bytes themselves.
    origin: Path | bytes


class Transfers:
    """Uploads and downloads; use it as an async context manager, by one event loop.

    `proxied` says whether a proxy of the environment counts, as for the server itself.
    """

    def __init__(
        self,
        ca_bundle: Path | None = None,
        *,
        proxied: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ca_bundle = ca_bundle
        self._proxied = proxied
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context(cafile=self._ca_bundle) if self._ca_bundle else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_SILENCE),
            auto_decompress=False,
            trust_env=self._proxied,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def put(self, content: Content, url: str, headers: Iterable[str]) -> None:
        """Send one file; `headers` are `Name:value` texts that the server wants to see.

        Raises:
            InvalidInputError: the file changed since it was hashed, or cannot be read any more.
            UnreachableError: the connection failed, again and again.
            LaunchError: what the far end's status stands for.
        """
        given = {"Content-Type": "application/octet-stream"}
        given |= dict(_header(text) for text in headers)
        given["Content-Length"] = str(content.size)

        async def once() -> None:
            reading = _Reading(content)
            try:
                async with self._open("PUT", url, given, reading.pieces()) as response:
                    await response.read()
            except UnansweredError:
                # A body that fails reaches us as a broken connection; the reason is the file.
                if reading.failure is not None:
                    raise reading.failure from None
                raise

        await self._repeat(once, content.path)

    async def read(self, url: str, limit: int) -> bytes:
        """A small file, whole; `limit` is in bytes.

        Raises:
            ServerError: it is larger than that.
            UnreachableError, LaunchError: as `put`.
        """

        async def once() -> bytes:
            body = b""
            async with self._open("GET", url, {}, None) as response:
                async for piece in response.content.iter_chunked(_PIECE):
                    body += piece
                    if len(body) > limit:
                        message = f"The server sends more than {limit} bytes for a small file."
                        raise ServerError(message)
            return body

        return await self._repeat(once, "A file of the artifact")

    @asynccontextmanager
    async def _open(
        self, method: str, url: str, headers: dict[str, str], body: AsyncIterator[bytes] | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            message = "Transfers is used outside its `async with`."
            raise RuntimeError(message)
        target = _target(url)
        try:
            async with self._session.request(
                method, target, headers=headers, data=body, allow_redirects=method == "GET"
            ) as response:
                if response.status not in _GOOD:
                    await _refuse(target, response)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            rule = rule_for(error)
            seen = str(error) or type(error).__name__
            message = f"{target.origin()} cannot be reached: {rule.reason} ({seen})."
            raise UnansweredError(message, rule) from error

    async def _repeat(self, once: Callable[[], Awaitable[Result]], path: str) -> Result:
        """Each content has one place and one digest, so sending it again changes nothing."""
        tries = AsyncRetrying(
            retry=retry_if_exception(_again),
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(multiplier=0.2, max=10.0),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await tries(once)
        except UnansweredError as error:
            message = f"«{path}» could not be transferred: {error.message}"
            hint = "Run the command again: what has arrived is not sent a second time."
            raise UnansweredError(message, error.rule, hint=hint) from error


class _Reading:
    """A content, hashed while it is read: what was promised is what is sent."""

    def __init__(self, content: Content) -> None:
        self._content = content
        #: Why the content could not be given.
        self.failure: InvalidInputError | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content piece by piece."""
        if isinstance(self._content.origin, bytes):
            yield self._content.origin
            return
        try:
            async for piece in self._of(self._content.origin):
                yield piece
        except OSError as error:
            message = f"«{self._content.path}» cannot be read any more: {error.strerror}."
            self.failure = InvalidInputError(message)
            raise self.failure from None
        except InvalidInputError as error:
            self.failure = error
            raise

    async def _of(self, path: Path) -> AsyncIterator[bytes]:
        total = hashlib.md5(usedforsecurity=False)
        left = self._content.size
        with await asyncio.to_thread(path.open, "rb") as file:
            while piece := await asyncio.to_thread(file.read, _PIECE):
                total.update(piece)
                left -= len(piece)
                # Before the last piece goes out, so that a changed file is never whole there.
                if left < 0 or (left == 0 and encoded(total.digest()) != self._content.digest):
                    raise self._changed()
                yield piece
        if left:
            raise self._changed()

    def _changed(self) -> InvalidInputError:
        message = f"«{self._content.path}» changed while it was being sent."
        return InvalidInputError(message, hint="Run the command again when nothing writes to it.")


async def _refuse(target: URL, response: aiohttp.ClientResponse) -> NoReturn:
    said = (await response.content.read(500)).decode("utf-8", "replace").strip()
    message = f"{target.origin()} answered {response.status} {response.reason}. {said}".strip()
    rule = STATUS_RULES.get(response.status)
    if rule is not None:
        raise UnansweredError(message, rule)
    raise error_of_status(response.status, message)


def _target(url: str) -> URL:
    # A signature covers the address as it stands; only what no address may hold is encoded.
    parsed = URL(url, encoded=url.isascii() and " " not in url)
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        message = f"The server gave «{url[:80]}» as the address of a file, which is no URL."
        raise ServerError(message, hint="Its `external_url` may be set wrongly.")
    return parsed


def _again(error: BaseException) -> bool:
    return isinstance(error, UnansweredError) and error.rule.allows(idempotent=True)


def _header(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    return name.strip(), value.strip()
