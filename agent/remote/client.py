"""One keep-alive session to a control plane: GraphQL documents and the REST routes beside it.

All retries happen here: a call is sent again only where `agent.remote.retry_rules` says that
this cannot repeat its effect, and never after the call's deadline. Redirects are not followed,
because the key would be sent along.
"""

import asyncio
import base64
import json
import re
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from agent.model.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ConfigError,
    ConflictError,
    LaunchError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    UnreachableError,
)
from agent.remote.retry_policy import DEFAULT_POLICY, RetryPolicy
from agent.remote.retry_rules import (
    STATUS_RULES,
    RequestFailedError,
    Retry,
    error_in,
    error_of_code,
    error_of_status,
    reason_of,
    rule_for,
)
from agent.system.network import is_loopback

#: The feature by which our servers are distinguished from W&B's: leases, and every other extension.
LEASES: Final = "LAUNCH_LEASES"
#: Seconds for a call that is not a long poll, besides the time that it is repeated for.
_DEADLINE: Final = 30.0
_FEATURES: Final = "query ServerFeatures { serverInfo { features { name isEnabled } } }"
_FIRST_ERROR: Final = 400
_MAX_RETRY_AFTER_SECONDS: Final = 60.0
#: A NUL in JSON text, and not a backslash that is followed by `u0000`.
_NOT_REPEATED: Final = (
    "The server may have executed it: look whether it did before you run it again."
)
_REPEATED: Final = "An earlier try, whose answer was lost, may have done it."
_NUL: Final = re.compile(r"(?<!\\)(?P<before>(?:\\\\)*)\\u0000")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address and API key, both from the same configuration source."""

    url: str
    api_key: str | None = field(repr=False, default=None)
    #: PEM file; `None` uses the system's CA store (or `SSL_CERT_FILE`).
    ca_bundle: Path | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: An earlier try may have been executed: its answer was lost.
    after_lost_answer: bool = False

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ServerError: it is not JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError:
            shown = self.body[:80].decode("utf-8", "replace")
            message = f"The server answered with something other than JSON: '{shown}'."
            raise ServerError(message, hint="Is this the address of a control plane?") from None


class ControlPlaneClient:
    """A session; use it as an async context manager, by one event loop.

    `sleep` waits between tries; tests replace it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        user_agent: str = "launch-agent",
        retry_policy: RetryPolicy = DEFAULT_POLICY,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.endpoint = endpoint
        self._base = _base_url(endpoint.url)
        self._user_agent = user_agent
        self.retry_policy = retry_policy
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None
        #: See `has_leases`; `None`: not asked yet.
        self._has_leases: bool | None = None

    @property
    def proxied(self) -> bool:
        """Whether HTTP_PROXY and HTTPS_PROXY are used: yes, except for loopback."""
        return not is_loopback(self._base.host)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls(), limit=0, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.retry_policy.connect),
            trust_env=self.proxied,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the session; a second call does nothing."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def execute(
        self,
        document: str,
        variables: Mapping[str, Any] | None = None,
        *,
        deadline: float | None = None,
        idempotent: bool | None = None,
    ) -> dict[str, Any]:
        """Run one operation and return its `data`.

        `idempotent`: it may be sent again when its response was lost; by default
        queries may and mutations may not. Every try of a mutation has the same idempotency key,
        by which our server answers a repeat as it answered the first. `deadline` is in seconds
        and covers all tries.

        Raises:
            UnreachableError: no response before the deadline.
            LaunchError: the class that the first error's `extensions.code` stands for.
        """
        is_mutation = document.lstrip().startswith("mutation")
        if idempotent is None:
            idempotent = not is_mutation
        headers = {"Content-Type": "application/json"}
        if is_mutation and idempotent:
            headers["Idempotency-Key"] = uuid.uuid4().hex
        payload = _encoded({"query": document, "variables": dict(variables or {})})
        try:
            answer = await self.send(
                "POST",
                "/graphql",
                body=payload,
                headers=headers,
                deadline=deadline,
                idempotent=idempotent,
            )
        except RequestFailedError as error:
            if not idempotent and error.rule.retry is Retry.IF_IDEMPOTENT:
                error.hint = _NOT_REPEATED
            raise
        try:
            return _data(answer)
        except (AlreadyExistsError, ConflictError, NotFoundError) as error:
            if answer.after_lost_answer:
                error.hint = f"{error.hint} {_REPEATED}" if error.hint else _REPEATED
            raise

    async def has_leases(self) -> bool:
        """Whether this is a server of ours: it announces the feature `LAUNCH_LEASES`.

        Raises:
            UnreachableError, AuthenticationError, PermissionDeniedError: as any call.
        """
        if self._has_leases is None:
            try:
                data = await self.execute(_FEATURES)
            except (UnreachableError, AuthenticationError, PermissionDeniedError):
                raise
            except LaunchError:
                # A server without `serverInfo.features` refuses the document.
                data = {}
            features = (data.get("serverInfo") or {}).get("features") or []
            enabled = {each["name"] for each in features if each and each.get("isEnabled")}
            self._has_leases = LEASES in enabled
        return self._has_leases

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: bytes | Callable[[], Any] | None = None,
        headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
        idempotent: bool = True,
    ) -> Response:
        """One REST call with repeats; a callable `body` is called for every try.

        Raises:
            UnreachableError: no response before the deadline.
            LaunchError: what the status, or the code in the body, stands for.
        """
        lost = False

        async def once() -> Response:
            nonlocal lost
            content = body() if callable(body) else body
            try:
                async with self._open(method, path, params, content, headers) as response:
                    whole = await response.read()
                    return Response(response.status, response.headers, whole, lost)
            except RequestFailedError as error:
                lost = lost or error.rule.retry is Retry.IF_IDEMPOTENT
                raise

        limit = _DEADLINE + self.retry_policy.total if deadline is None else deadline
        return await self._repeat(once, limit, idempotent=idempotent)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        read_timeout: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a response to be read in pieces; no retries, since pieces may be used already.

        `read_timeout`: seconds without a byte after which the response counts as broken.

        Raises:
            UnreachableError: the connection failed, broke, or was silent for too long.
        """
        async with self._open(
            method, path, params, None, None, read_timeout=read_timeout
        ) as response:
            yield response

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None,
        body: Any,
        headers: Mapping[str, str] | None,
        *,
        read_timeout: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            message = "ControlPlaneClient is used outside its `async with`."
            raise RuntimeError(message)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self.retry_policy.connect, sock_read=read_timeout
        )
        url = URL(f"{self._base}{path}", encoded=True)
        try:
            async with self._session.request(
                method, url, params=params, data=body, headers=headers,
                allow_redirects=False, timeout=timeout,
            ) as response:  # fmt: skip
                await self._check(response)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._transport_failure(error) from error

    async def _repeat(
        self, once: Callable[[], Awaitable[Response]], deadline: float, *, idempotent: bool
    ) -> Response:
        tries = self.retry_policy.retrying(self._sleep, idempotent=idempotent, deadline=deadline)
        began = time.monotonic()
        try:
            async with asyncio.timeout(deadline):
                return await tries(once)
        except TimeoutError as error:
            waited = f"{time.monotonic() - began:.0f} s"
            message = f"{self._base} did not answer within {waited}."
            raise RequestFailedError(message, rule_for(error)) from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status < 300:  # noqa: PLR2004 -- the last success
            return
        if response.status < _FIRST_ERROR:
            where = response.headers.get("Location", "elsewhere")
            message = f"{self._base} redirects to {where}, and redirects are not followed."
            raise ServerError(message, hint="Give the final address.")
        text, code, hint = error_in(await response.read())
        message = text or f"{self._base} answered {response.status} {response.reason}."
        rule = STATUS_RULES.get(response.status)
        if rule is not None:
            after = _retry_after(response.headers.get("Retry-After"))
            raise RequestFailedError(message, rule, retry_after=after, hint=hint)
        raise error_of_status(response.status, message, code=code, hint=hint)

    def _transport_failure(self, error: aiohttp.ClientError | TimeoutError) -> RequestFailedError:
        rule = rule_for(error)
        seen = reason_of(error)
        message = f"{self._base} cannot be reached: {rule.reason} ({seen})."
        return RequestFailedError(message, rule, hint="Check the address, and that it is up.")

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": self._user_agent, "Accept": "application/json, */*"}
        if self.endpoint.api_key:
            pair = base64.b64encode(f"api:{self.endpoint.api_key}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        return headers

    def _tls(self) -> ssl.SSLContext | bool:
        if self._base.scheme != "https":
            return True
        bundle = self.endpoint.ca_bundle
        try:
            return ssl.create_default_context(cafile=bundle)
        except (OSError, ssl.SSLError) as error:
            message = f"`ca_bundle`: {bundle} cannot be read as PEM certificates ({error})."
            raise ConfigError(message) from error


def _base_url(text: str) -> URL:
    url = URL(text.strip().rstrip("/"))
    if url.scheme not in {"http", "https"} or not url.host:
        message = f"'{text}' is not the address of a server."
        raise ConfigError(message, hint="Write http://HOST:PORT or https://HOST.")
    if url.user or url.password:
        message = "The server's address holds a user name or password."
        raise ConfigError(message, hint="Give the key by `api_key` or `api_key_file`.")
    return url.with_query(None).with_fragment(None)


def _encoded(value: Any) -> bytes:
    """As JSON; halves of characters and NUL, which outputs of programs have, are replaced.

    Servers refuse them, and an outcome that is refused would never arrive.
    """
    text = json.dumps(value, ensure_ascii=False)
    if "\\u0000" in text:
        text = _NUL.sub(r"\g<before>\\ufffd", text)
    return text.encode(errors="replace")


def _data(answer: Response) -> dict[str, Any]:
    reply = answer.json()
    if not isinstance(reply, dict):
        message = "The server's GraphQL answer is not an object."
        raise ServerError(message, hint="Is this the address of a control plane?")
    if reply.get("errors"):
        text, code, hint = error_in(answer.body)
        raise error_of_code(code, text or "The server reports an error without a message.", hint)
    data = reply.get("data")
    return data if isinstance(data, dict) else {}


def _retry_after(text: str | None) -> float | None:
    """Seconds; the form with a date is not used by our server."""
    if text is None or not text.strip().isdigit():
        return None
    return min(float(text), _MAX_RETRY_AFTER_SECONDS)
