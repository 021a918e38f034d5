"""Signed URLs: sending files to them and reading from them, without our key.

Such a URL carries its own right, and may belong to an object store that must not see the key.
Contents are streamed and hashed on the way; nothing is held in memory whole.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self, TypeVar

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential
from yarl import URL

from agent.model.errors import InvalidInputError, ServerError
from agent.remote.artifacts import batches
from agent.remote.artifacts.batches import Addressed, BatchReading
from agent.remote.artifacts.reading import PIECE, Content, Extent, Reading
from agent.remote.failures import (
    STATUS_RULES,
    AddressRefusedError,
    UnansweredError,
    error_of_status,
    rule_for,
    told_in,
    words_of,
)

Result = TypeVar("Result")

#: Seconds without a byte moving, in either direction.
_SILENCE: Final = 60.0
_TRIES: Final = 5
#: Bytes of a refusal that are read.
_LONGEST_REFUSAL: Final = 4096
_GOOD: Final = range(200, 300)


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
            connector=aiohttp.TCPConnector(
                ssl=tls, limit=0, keepalive_timeout=60, socket_factory=_impatient_socket
            ),
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

        No others are sent, as by W&B's client: a signature may cover them.

        Raises:
            InvalidInputError: the file changed since it was hashed, or cannot be read any more.
            UnreachableError: the connection failed, again and again.
            LaunchError: what the far end's status stands for.
        """
        await self._put(content, content.whole, url, dict(map(_header, headers)))

    async def put_part(
        self, content: Content, extent: Extent, url: str, headers: Iterable[str]
    ) -> str:
        """Send one extent of a file; gives the `ETag` by which the store knows it.

        Of `headers` only the media type counts, as with W&B's client: the others speak of the
        whole file. Without one, none is sent, since the signature may cover it.

        Raises:
            ServerError: the store gave no `ETag`.
            InvalidInputError, UnreachableError, LaunchError: as `put`.
        """
        named = {name.lower(): value for name, value in map(_header, headers)}
        given = {"Content-MD5": extent.digest}
        if "content-type" in named:
            given["Content-Type"] = named["content-type"]
        tag = await self._put(content, extent, url, given)
        if not tag:
            message = f"{_target(url).origin()} took a part of '{content.path}' without an ETag."
            raise ServerError(message, hint="A store behind W&B's servers always gives one.")
        return tag

    async def put_batch(self, batch: Sequence[Addressed]) -> None:
        """Send small files in one request.

        Raises:
            InvalidInputError, UnreachableError, LaunchError: as `put`.
        """
        size, first = str(batches.body_size(batch)), batch[0].content.path
        headers = {"Content-Type": batches.TYPE, "Content-Length": size}
        url = batches.batch_url(batch)
        try:
            await self._send("POST", url, headers, lambda: BatchReading(batch), first)
        except InvalidInputError:
            # The server knows it by its digest; people want the name.
            changed = await asyncio.to_thread(batches.changed_in, batch)
            if changed is None:
                raise
            raise changed from None

    async def _put(
        self, content: Content, extent: Extent, url: str, headers: dict[str, str]
    ) -> str:
        given = {**headers, "Content-Length": str(extent.size)}
        return await self._send("PUT", url, given, lambda: Reading(content, extent), content.path)

    async def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        read: Callable[[], Reading | BatchReading],
        path: str,
    ) -> str:
        """Send what `read` begins to read anew for each try; gives the `ETag`."""

        async def once() -> str:
            reading = read()
            body = await reading.body()
            try:
                async with self._open(method, url, headers, body) as response:
                    await response.read()
                    return response.headers.get("ETag", "")
            except UnansweredError:
                # A body that fails reaches us as a broken connection; the reason is the file.
                if reading.failure is not None:
                    raise reading.failure from None
                raise

        return await self._repeat(once, path)

    async def read(self, url: str, limit: int) -> bytes:
        """A small file, whole; `limit` is in bytes.

        Raises:
            ServerError: it is larger than that.
            UnreachableError, LaunchError: as `put`.
        """

        async def once() -> bytes:
            body = b""
            async with self._open("GET", url, {}, None) as response:
                async for piece in response.content.iter_chunked(PIECE):
                    body += piece
                    if len(body) > limit:
                        message = f"The server sends more than {limit} bytes for a small file."
                        raise ServerError(message)
            return body

        return await self._repeat(once, "A file of the artifact")

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | AsyncIterator[bytes] | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            message = "Transfers is used outside its `async with`."
            raise RuntimeError(message)
        target = _target(url)
        try:
            async with self._session.request(
                method,
                target,
                headers=headers,
                data=body,
                allow_redirects=method == "GET",
                skip_auto_headers=("Content-Type",),
            ) as response:
                if response.status not in _GOOD:
                    await _refuse(target, response)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            rule = rule_for(error)
            seen = words_of(error)
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
            message = f"'{path}' could not be transferred: {error.message}"
            hint = "Run the command again: what has arrived is not sent a second time."
            raise UnansweredError(message, error.rule, hint=hint) from error


async def _refuse(target: URL, response: aiohttp.ClientResponse) -> NoReturn:
    body = await response.content.read(_LONGEST_REFUSAL)
    text, code, hint = told_in(body)
    said = body[:500].decode("utf-8", "replace").strip()
    message = text or f"{target.origin()} answered {response.status} {response.reason}. {said}"
    rule = STATUS_RULES.get(response.status)
    if rule is not None:
        raise UnansweredError(message, rule, hint=hint)
    # Google's store says 400 of an address that has expired, the others 403.
    if response.status == HTTPStatus.FORBIDDEN or (
        response.status == HTTPStatus.BAD_REQUEST and "expired" in said.lower()
    ):
        raise AddressRefusedError(message, hint=hint)
    raise error_of_status(response.status, message, code=code, hint=hint)


def _impatient_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """One whose connection breaks when the far end takes nothing for too long.

    aiohttp's own limits begin when all is sent.
    """
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(_SILENCE * 1000))
    return made


def _target(url: str) -> URL:
    # A signature covers the address as it stands; only what no address may hold is encoded.
    parsed = URL(url, encoded=url.isascii() and " " not in url)
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        message = f"The server gave '{url[:80]}' as the address of a file, which is no URL."
        raise ServerError(message, hint="Its `external_url` may be set wrongly.")
    return parsed


def _again(error: BaseException) -> bool:
    return isinstance(error, UnansweredError) and error.rule.allows(idempotent=True)


def _header(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    return name.strip(), value.strip()
