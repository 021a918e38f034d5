"""Uploads to signed URLs and downloads from them.

A signed URL needs no key, and may belong to an object store that must not get it. Contents are
streamed; no file is in memory whole. Small files go many in one request to servers of ours: a
directory of code is a thousand small files, and a request for each costs more than its bytes.
A line with size and URL precedes each.
"""

import asyncio
import socket
import ssl
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, NoReturn, Self, TypeVar

import aiohttp
from yarl import URL

from agent.model.errors import InvalidInputError, ServerError
from agent.remote.artifacts.contents import (
    PIECE,
    ByteRange,
    Content,
    ContentReader,
    read_verified,
    read_whole,
)
from agent.remote.retry_policy import DEFAULT_POLICY, RetryPolicy
from agent.remote.retry_rules import (
    STATUS_RULES,
    RequestFailedError,
    SignedUrlRefusedError,
    error_in,
    error_of_status,
    reason_of,
    rule_for,
)

Result = TypeVar("Result")

#: Seconds without a byte moving, in either direction.
_SILENCE: Final = 60.0
#: Bytes of a refusal that are read.
_MAX_REFUSAL_BYTES: Final = 4096
_GOOD: Final = range(200, 300)

#: Media type of a request with many files.
BATCH_TYPE: Final = "application/vnd.launch.contents"
_SMALL_FILE_BYTES: Final = 256 * 1024
#: Of one request with many files.
_MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
_MAX_BATCH_FILES: Final = 500
#: Where the paths of the server's URLs of contents begin, and where many are sent to at once.
_CONTENTS_PATH: Final = "/storage/contents"


@dataclass(frozen=True, slots=True)
class ContentWithUrl:
    """A content and the signed URL that was made for it."""

    content: Content
    url: str

    @property
    def is_small(self) -> bool:
        """Whether it goes into a request with others."""
        return self.content.size <= _SMALL_FILE_BYTES and _CONTENTS_PATH in self.url

    @property
    def line(self) -> bytes:
        """The line that precedes its bytes."""
        return f"{self.content.size} {self.url}\n".encode()


def batch_url(batch: Sequence[ContentWithUrl]) -> str:
    """Where a batch is sent to: the server as it calls itself in its URLs."""
    base, path, _ = batch[0].url.partition(_CONTENTS_PATH)
    return base + path


def batches(files: Iterable[ContentWithUrl]) -> list[list[ContentWithUrl]]:
    """Small files by request, in their order."""
    found: list[list[ContentWithUrl]] = []
    room = 0
    for file in files:
        if not found or room < file.content.size or len(found[-1]) == _MAX_BATCH_FILES:
            found.append([])
            room = _MAX_BATCH_BYTES
        found[-1].append(file)
        room -= file.content.size
    return found


class BatchReader:
    """The body of a request with many files, read while it is sent.

    The server compares each with its digest, which the address names; hashing them here as
    well would cost as much as sending them.
    """

    def __init__(self, batch: Sequence[ContentWithUrl]) -> None:
        self._batch = batch
        #: Why the pieces could not be given.
        self.failure: InvalidInputError | None = None

    async def body(self) -> AsyncIterator[bytes]:
        """The pieces; what goes wrong with a file is kept as `failure`."""
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        files = iter(self._batch)
        try:
            while piece := await asyncio.to_thread(_next, files):
                yield piece
        except InvalidInputError as error:
            self.failure = error
            raise


def changed_in(batch: Iterable[ContentWithUrl]) -> InvalidInputError | None:
    """The error for the first file that is not the one that was hashed, if any. Blocks."""
    for file in batch:
        try:
            read_verified(file.content, file.content.whole)
        except InvalidInputError as error:
            return error
    return None


def _next(files: Iterator[ContentWithUrl]) -> bytes:
    piece: list[bytes] = []
    room = PIECE
    for file in files:
        piece += (file.line, read_whole(file.content, file.content.whole))
        room -= file.content.size
        if room <= 0:
            break
    return b"".join(piece)


class Transfers:
    """Uploads and downloads; use it as an async context manager, by one event loop.

    `proxied`: use a proxy of the environment, as for the server itself.
    """

    def __init__(
        self,
        ca_bundle: Path | None = None,
        *,
        proxied: bool = False,
        retry_policy: RetryPolicy = DEFAULT_POLICY,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ca_bundle = ca_bundle
        self._proxied = proxied
        self._retry_policy = retry_policy
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context(cafile=self._ca_bundle) if self._ca_bundle else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=tls, limit=0, keepalive_timeout=60, socket_factory=_socket_with_timeout
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_SILENCE),
            auto_decompress=False,
            trust_env=self._proxied,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def put(self, content: Content, url: str, headers: Iterable[str]) -> None:
        """Send one file; `headers` are `Name:value` strings that the server asks for.

        No others are sent, as by W&B's client: a signature may cover them.

        Raises:
            InvalidInputError: the file changed since it was hashed, or cannot be read any more.
            UnreachableError: the connection failed, again and again.
            LaunchError: what the store's status stands for.
        """
        await self._put(content, content.whole, url, dict(map(_header, headers)))

    async def put_part(
        self, content: Content, part: ByteRange, url: str, headers: Iterable[str]
    ) -> str:
        """Send one part of a file; gives the `ETag` by which the store knows it.

        Of `headers` only the media type is sent, as by W&B's client: the others are about the
        whole file. Without one, none is sent, since the signature may cover it.

        Raises:
            ServerError: the store gave no `ETag`.
            InvalidInputError, UnreachableError, LaunchError: as `put`.
        """
        named = {name.lower(): value for name, value in map(_header, headers)}
        given = {"Content-MD5": part.digest}
        if "content-type" in named:
            given["Content-Type"] = named["content-type"]
        tag = await self._put(content, part, url, given)
        if not tag:
            message = f"{_target(url).origin()} took a part of '{content.path}' without an ETag."
            raise ServerError(message, hint="A store behind W&B's servers always gives one.")
        return tag

    async def put_batch(self, batch: Sequence[ContentWithUrl]) -> None:
        """Send small files in one request.

        Raises:
            InvalidInputError, UnreachableError, LaunchError: as `put`.
        """
        size = sum(len(file.line) + file.content.size for file in batch)
        headers = {"Content-Type": BATCH_TYPE, "Content-Length": str(size)}
        url, first = batch_url(batch), batch[0].content.path
        try:
            await self._send("POST", url, headers, lambda: BatchReader(batch), first)
        except InvalidInputError:
            # The server names the digest; users need the file's name.
            changed = await asyncio.to_thread(changed_in, batch)
            if changed is None:
                raise
            raise changed from None

    async def _put(
        self, content: Content, part: ByteRange, url: str, headers: dict[str, str]
    ) -> str:
        given = {**headers, "Content-Length": str(part.size)}
        return await self._send(
            "PUT", url, given, lambda: ContentReader(content, part), content.path
        )

    async def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        read: Callable[[], ContentReader | BatchReader],
        path: str,
    ) -> str:
        """Send what `read` gives, called for each try; returns the `ETag`."""

        async def once() -> str:
            reader = read()
            body = await reader.body()
            try:
                async with self._open(method, url, headers, body) as response:
                    await response.read()
                    return response.headers.get("ETag", "")
            except RequestFailedError:
                # A body that fails reaches us as a broken connection; the reason is the file.
                if reader.failure is not None:
                    raise reader.failure from None
                raise

        return await self._repeat(once, path)

    async def stream(self, url: str) -> AsyncGenerator[bytes, None]:
        """A file in pieces, without repeats, since pieces may be used already.

        Raises:
            RequestFailedError: it could not be opened, or broke.
            LaunchError: what the store's status stands for.
        """
        async with self._open("GET", url, {}, None) as response:
            async for piece in response.content.iter_chunked(PIECE):
                yield piece

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
                    await _raise_refusal(target, response)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            rule = rule_for(error)
            seen = reason_of(error)
            message = f"{target.origin()} cannot be reached: {rule.reason} ({seen})."
            raise RequestFailedError(message, rule) from error

    async def _repeat(self, once: Callable[[], Awaitable[Result]], path: str) -> Result:
        """Repeat what failed. Safe, since each content has one URL and one digest."""
        tries = self._retry_policy.retrying(self._sleep, idempotent=True)
        try:
            return await tries(once)
        except RequestFailedError as error:
            message = f"'{path}' could not be transferred: {error.message}"
            hint = "Run the command again: what has arrived is not sent a second time."
            raise RequestFailedError(message, error.rule, hint=hint) from error


async def _raise_refusal(target: URL, response: aiohttp.ClientResponse) -> NoReturn:
    body = await response.content.read(_MAX_REFUSAL_BYTES)
    text, code, hint = error_in(body)
    detail = body[:500].decode("utf-8", "replace").strip()
    message = text or f"{target.origin()} answered {response.status} {response.reason}. {detail}"
    rule = STATUS_RULES.get(response.status)
    if rule is not None:
        raise RequestFailedError(message, rule, hint=hint)
    # Google's store answers 400 for an expired URL, the others 403.
    if response.status == HTTPStatus.FORBIDDEN or (
        response.status == HTTPStatus.BAD_REQUEST and "expired" in detail.lower()
    ):
        raise SignedUrlRefusedError(message, hint=hint)
    raise error_of_status(response.status, message, code=code, hint=hint)


def _socket_with_timeout(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose connection breaks when the peer accepts nothing for too long.

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
        message = f"The server gave '{url[:80]}' as the URL of a file, which is not a URL."
        raise ServerError(message, hint="Its `external_url` may be set wrongly.")
    return parsed


def _header(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    return name.strip(), value.strip()
