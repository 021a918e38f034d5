"""Calls of the Kubernetes API: JSON in, JSON out.

The library knows kubeconfig files, contexts, credential plugins and service accounts; objects
stay plain dictionaries, since a job's manifest may hold what no model of the library has.
"""

import asyncio
import json
import math
import socket
from asyncio import sslproto
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from agent.config.execution import KubernetesRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, UnavailableError
from agent.model.spec import Json
from agent.runners.kubernetes.credentials import read_credentials
from agent.runners.kubernetes.pending import refusal_of
from agent.runners.kubernetes.reachability import Reachability
from agent.system.backoff import Sleep
from agent.system.tasks import cancel_task

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient, Configuration

NOT_FOUND: Final = 404
CONFLICT: Final = 409
#: The object itself is at fault: it is invalid, or has a field that the server does not know.
AT_FAULT: Final = frozenset({400, 422})
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_TOO_MANY: Final = 429
_SERVER_ERRORS: Final = range(500, 600)
#: What a gateway answers in place of a server that is away.
_AWAY: Final = frozenset({502, 503, 504})
_GOOD: Final = range(200, 300)
#: Seconds for one call, for a call with its repeats, and for a look whether the server answers.
_CALL_LIMITS: Final = aiohttp.ClientTimeout(total=30.0)
_PATIENCE: Final = 60.0
_PROBE_LIMITS: Final = aiohttp.ClientTimeout(total=5.0)
_CALLS_AT_ONCE: Final = 32
#: Seconds for which a stream that is not answered keeps others from being opened.
_STREAM_TURN: Final = 0.2
#: Seconds for which an answer shows that the server answers.
_RECENT: Final = 8.0
#: A path that every account may read (`system:public-info-viewer`).
_PROBE_PATH: Final = "/version"
#: A connection whose other end is gone ends after 60 s, also while nothing is sent: seconds
#: without a byte, seconds between probes, and how many are lost.
_KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 30),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 3),
)
#: The protocol of channels over a WebSocket.
_CHANNELS: Final = "v4.channel.k8s.io"
_JSON: Final = "application/json"
_ONLY_METADATA: Final = f"{_JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{_JSON}"
_MERGE_PATCH: Final = "application/merge-patch+json"


class ClusterUnreachableError(UnavailableError):
    """The API server cannot be reached, or answers with a failure of its own."""

    def __init__(self, server: str, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(
            Cause.LOST_ENGINE,
            f"The Kubernetes API at {server} does not answer ({reason}).",
            hint="Check it with `kubectl get --raw /readyz`.",
        )
        self.reason = reason
        #: Seconds that the server asks to wait.
        self.retry_after = retry_after


class ClusterSilentError(ClusterUnreachableError):
    """A stream gave nothing for as long as was agreed."""


class ClusterCredentialsError(ClusterUnreachableError):
    """The API server does not accept the agent's credentials; no job is to blame."""

    def __init__(self, server: str, message: str) -> None:
        super().__init__(server, f"it does not accept the credentials: {message}")
        self.hint = "Renew the credentials of the kubeconfig or of the service account."


class ClusterRefusedError(JobError):
    """The API server refused a request: `status` as in HTTP, `reason` as it names it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        hint = None
        cause = Cause.POLICY_SPEC if status in AT_FAULT else Cause.START_FAILED
        if status == _FORBIDDEN and " cannot " in message:
            hint = "Grant the agent's account what docs/kubernetes.md lists."
        elif status == _FORBIDDEN:
            # The account may; a quota or a policy is against it.
            cause = refusal_of(message).cause
        super().__init__(cause, f"Kubernetes: {message.rstrip('.')}.", hint=hint)
        self.status = status
        self.reason = reason
        self.detail = message


@dataclass(frozen=True, slots=True)
class Kind:
    """A namespaced resource."""

    #: `/api/v1` or `/apis/<group>/<version>`.
    prefix: str
    plural: str

    def path(self, namespace: str, name: str | None = None, sub: str | None = None) -> str:
        """The path of a collection, an object or a subresource."""
        parts = [f"{self.prefix}/namespaces/{namespace}/{self.plural}", name, sub]
        return "/".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    limits: aiohttp.ClientTimeout
    query: Mapping[str, str] | None = None
    body: Json | None = None
    media_type: str = _JSON
    accept: str = _JSON
    #: The answer is needed; that to the deletion of a collection has all of its objects.
    wants_answer: bool = True


JOBS: Final = Kind("/apis/batch/v1", "jobs")
PODS: Final = Kind("/api/v1", "pods")
SECRETS: Final = Kind("/api/v1", "secrets")
EVENTS: Final = Kind("/api/v1", "events")


class ClusterApi:
    """One cluster; an async context manager that owns its connections.

    Every request waits while the API server is known not to answer (`Reachability`); `patience` is
    what a call may take with its repeats, in seconds.
    """

    def __init__(
        self,
        config: KubernetesRunnerConfig,
        *,
        sleep: Sleep = asyncio.sleep,
        patience: float = _PATIENCE,
    ) -> None:
        self._config = config
        self._patience = patience
        self._sleep = sleep
        self._client: ApiClient | None = None
        self._connector: aiohttp.TCPConnector | None = None
        #: Where the connections lead, and by which certificates.
        self._endpoint: tuple[Any, ...] = ()
        self._opening = asyncio.Lock()
        self._namespace = config.namespace or "default"
        self._reachability = Reachability(self._answers, sleep)
        #: Calls wait here before their time begins, and streams to be opened, so that a thousand
        #: jobs at once do not make each other late.
        self._turns = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._stream_turns = asyncio.Semaphore(_CALLS_AT_ONCE)
        #: It does not accept the credentials.
        self._refusal: ClusterCredentialsError | None = None
        #: When it last answered a request, by the monotonic clock.
        self._answered = -math.inf

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def _open(self) -> None:
        """Read the credentials and connect with them.

        A new token is used on the connections that are open: closing them would break the requests
        and streams of all jobs. Another server, or other certificates, need new ones.
        """
        from kubernetes.aio import client

        found = await read_credentials(self._config)
        settings, self._namespace = found.settings, found.namespace
        try:
            endpoint = await asyncio.to_thread(_endpoint_of, settings)
            opened = client.ApiClient(settings)
            if self._client is not None and endpoint == self._endpoint:
                opened.rest_client, self._client = self._client.rest_client, opened
                return
        except OSError as error:  # of ssl
            message = f"`runners.kubernetes`: the cluster's certificates cannot be used: {error}."
            raise ConfigError(message, hint="Check the kubeconfig with kubectl.") from None
        connector = aiohttp.TCPConnector(
            # Each running job has a stream of its log.
            limit=0,
            ssl=opened.rest_client.ssl_context,
            socket_factory=_socket_kept_alive,
        )
        settings.client_session_kwargs = {"connector": connector}
        _use_small_tls_buffers()
        # Before anything is awaited: a caller whose patience ends here would leave it open.
        replaced, self._client, self._endpoint = self._client, opened, endpoint
        old_connector, self._connector = self._connector, connector
        await _close(replaced, old_connector)

    async def __aexit__(self, *_: object) -> None:
        await _close(self._client, self._connector)

    @property
    def namespace(self) -> str:
        """Where jobs run unless their manifest names another one."""
        return self._namespace

    @property
    def server(self) -> str:
        """Its URL."""
        return str(self._opened.configuration.host)

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, *, metadata_only: bool = False
    ) -> Json | None:
        """An object or a list; `None` if there is none.

        `metadata_only`, for lists: without the rest, such as the data of Secrets.

        Raises:
            ClusterUnreachableError, ClusterRefusedError: after all repeats.
        """
        try:
            accept = _ONLY_METADATA if metadata_only else _JSON
            return await self._repeated(_Request("GET", path, _CALL_LIMITS, query, accept=accept))
        except ClusterRefusedError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def see_that_it_answers(self) -> None:
        """Ask the server, unless it has answered something in the last seconds.

        Raises:
            ClusterUnreachableError, ClusterRefusedError: as `get`.
        """
        if self._reachability.failure or monotonic() - self._answered > _RECENT:
            await self.get(JOBS.path(self.namespace, "launch-probe"))

    async def create(self, path: str, body: Json, *, dry_run: bool = False) -> Json | None:
        """Create a named object; `None` if the name is taken, perhaps by an earlier try.

        Repeating is safe: the name exists once. Unknown fields are refused.
        """
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        try:
            return await self._repeated(_Request("POST", path, _CALL_LIMITS, query, body))
        except ClusterRefusedError as error:
            if error.status == CONFLICT and error.reason == "AlreadyExists":
                return None
            raise

    async def patch(self, path: str, change: Json) -> None:
        """Merge a change into an object, unless that is gone."""
        request = _Request("PATCH", path, _CALL_LIMITS, None, change, _MERGE_PATCH)
        try:
            await self._repeated(replace(request, wants_answer=False))
        except ClusterRefusedError as error:
            if error.status != NOT_FOUND:
                raise

    async def delete(
        self, path: str, options: Json, query: Mapping[str, str] | None = None
    ) -> bool:
        """Delete an object or a collection; False if a precondition does not hold.

        What is gone already is deleted.
        """
        try:
            request = _Request("DELETE", path, _CALL_LIMITS, query, options)
            await self._repeated(replace(request, wants_answer=False))
        except ClusterRefusedError as error:
            if error.status == CONFLICT:
                return False
            if error.status != NOT_FOUND:
                raise
        return True

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], read_timeout: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response whose body is read as it comes.

        Not repeated: the caller knows where to go on.

        Raises:
            ClusterSilentError: nothing came for `read_timeout` seconds.
            ClusterUnreachableError: no answer, or the connection broke.
            ClusterRefusedError: see there.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=read_timeout)
        async with self._failures():
            response = await self._opened_stream(_Request("GET", path, timeout, query))
            try:
                await self._check(response)
                yield response
            finally:
                response.close()

    @asynccontextmanager
    async def websocket(
        self, path: str, query: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A connection through the API server to a node; not repeated.

        Raises:
            ClusterUnreachableError, ClusterRefusedError: it is not opened.
        """
        client = self._opened
        _, url, headers, *_ = await client.param_serialize(
            "GET", path, query_params=list(query.items()), auth_settings=["BearerToken"]
        )
        session = client.rest_client.pool_manager
        if session is None:
            message = "ClusterApi.websocket is used before any other request."
            raise RuntimeError(message)
        async with self._failures():
            try:
                opened = await session.ws_connect(
                    url, headers=headers, protocols=(_CHANNELS,), max_msg_size=0
                )
            except aiohttp.WSServerHandshakeError as error:
                raise ClusterRefusedError(error.status, "", error.message) from error
        try:
            yield opened
        finally:
            await opened.close()

    @property
    def _opened(self) -> "ApiClient":
        if self._client is None:
            message = "ClusterApi is used outside its `async with`."
            raise RuntimeError(message)
        return self._client

    async def _repeated(self, request: _Request) -> Json:
        tries = AsyncRetrying(
            retry=retry_if_exception_type(ClusterUnreachableError),
            wait=_wait,
            sleep=self._sleep,
        )
        try:
            async with self._turns, asyncio.timeout(self._patience):
                found: Json = await tries(self._call, request)
                return found
        except TimeoutError:
            if self._refusal is not None:
                raise self._refusal from None
            failure = self._reachability.failure or f"no answer within {self._patience:.0f} s"
            raise ClusterUnreachableError(self.server, failure) from None

    async def _call(self, request: _Request) -> Json:
        async with self._failures():
            response = await self._send(request)
            async with response:
                await self._check(response)
                found = await response.json() if request.wants_answer else {}
                self._answered, self._refusal = monotonic(), None
                return dict(found)

    @asynccontextmanager
    async def _failures(self) -> AsyncIterator[None]:
        """Wait while the server does not answer; what goes wrong then, as one kind of error."""
        await self._reachability.wait()
        client = self._client
        try:
            yield
        except ClusterCredentialsError as error:
            self._lost(error.reason, error)
            raise
        except TimeoutError as error:
            failure: ClusterUnreachableError = ClusterSilentError(self.server, _reason(error))
            self._lost(_reason(error))
            raise failure from error
        # A RuntimeError or AssertionError: aiohttp was to use a connection or a session that had
        # been closed before.
        except (aiohttp.ClientError, OSError, RuntimeError, AssertionError) as error:
            # Another request renewed the certificates meanwhile, which closes all connections: that
            # says nothing of the server.
            if self._client is client:
                self._lost(_reason(error))
            raise ClusterUnreachableError(self.server, _reason(error)) from error
        except ValueError as error:
            raise ClusterUnreachableError(self.server, f"it sent no JSON: {error}") from error

    def _lost(self, reason: str, refusal: ClusterCredentialsError | None = None) -> None:
        self._refusal = refusal
        self._reachability.lost(reason)

    async def _answers(self) -> bool:
        try:
            response = await self._send(_Request("GET", _PROBE_PATH, _PROBE_LIMITS))
        except ClusterCredentialsError as error:
            self._lost(error.reason, error)
            return False
        # As in `_failures`: another request renews the certificates and has closed the connections.
        except (aiohttp.ClientError, OSError, TimeoutError, RuntimeError, AssertionError) as error:
            self._lost(_reason(error))
            return False
        response.close()
        return response.status not in _AWAY

    async def _opened_stream(self, request: _Request) -> aiohttp.ClientResponse:
        """The answer to it; the log of a job that is silent has none until the first byte."""
        sending = None
        try:
            async with self._stream_turns:
                sending = asyncio.create_task(self._send(request), name="stream")
                await asyncio.wait({sending}, timeout=_STREAM_TURN)
            return await sending
        except asyncio.CancelledError:
            await cancel_task(sending)
            if sending is not None and not sending.cancelled() and not sending.exception():
                sending.result().close()
            raise

    async def _send(self, request: _Request) -> aiohttp.ClientResponse:
        client = self._opened
        response = await _sent(client, request)
        if response.status != _UNAUTHORIZED:
            return response
        response.close()
        # A token has a lifetime; its file, or the program that makes it, has the next one.
        await self._renew(client)
        response = await _sent(self._opened, request)
        if response.status == _UNAUTHORIZED:
            async with response:
                message = _message(await response.text(), response)
            raise ClusterCredentialsError(self.server, message)
        return response

    async def _renew(self, used: "ApiClient") -> None:
        async with self._opening:
            if self._client is not used:
                return
            try:
                await self._open()
            except ConfigError as error:
                raise ClusterCredentialsError(self.server, str(error)) from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status in _GOOD:
            return
        text = await response.text()
        message = _message(text, response)
        if response.status == _TOO_MANY or response.status in _SERVER_ERRORS:
            # For a log the API server asks a kubelet, whose absence concerns nobody else.
            if response.status in _AWAY and not response.url.path.endswith("/log"):
                self._lost(message)
            raise ClusterUnreachableError(self.server, message, _retry_after(response))
        raise ClusterRefusedError(response.status, str(_status(text).get("reason") or ""), message)


def _endpoint_of(settings: "Configuration") -> tuple[Any, ...]:
    files = (settings.ssl_ca_cert, settings.cert_file, settings.key_file)
    certificates = [Path(file).read_bytes() if file else b"" for file in files]
    return (
        settings.host,
        settings.proxy,
        settings.verify_ssl,
        settings.tls_server_name,
        *certificates,
    )


async def _close(client: "ApiClient | None", connector: aiohttp.TCPConnector | None) -> None:
    try:
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call]
    finally:
        if connector is not None:
            await connector.close()


async def _sent(client: "ApiClient", request: _Request) -> aiohttp.ClientResponse:
    from kubernetes.aio.config import ConfigException

    headers = {"Accept": request.accept}
    if request.body is not None:
        headers["Content-Type"] = request.media_type
    try:
        call = await client.param_serialize(
            request.method,
            request.path,
            query_params=list((request.query or {}).items()),
            header_params=headers,
            body=request.body,
            auth_settings=["BearerToken"],
        )
    except ConfigException as error:  # the file of the service account's token cannot be read
        raise ClusterCredentialsError(str(client.configuration.host), str(error)) from error
    answer = await client.call_api(*call, _request_timeout=request.limits)
    response: aiohttp.ClientResponse = answer.response
    return response


_backoff = wait_random_exponential(multiplier=0.2, max=5.0)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ClusterUnreachableError) else 0.0
    return max(asked, _backoff(state))


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds; the header has a number or a date (RFC 9110, 10.2.3)."""
    given = response.headers.get("Retry-After", "")
    if given.isdigit():
        return float(given)
    try:
        at = parsedate_to_datetime(given)
    except ValueError:
        return 0.0
    # By the server's own clock, as far as it tells the time.
    now = response.headers.get("Date")
    since = parsedate_to_datetime(now) if now else datetime.now(UTC)
    return max(0.0, (at - since).total_seconds())


def _status(text: str) -> Json:
    """The `Status` object of an answer; empty where something else answered."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _message(text: str, response: aiohttp.ClientResponse) -> str:
    return str(_status(text).get("message") or text[:500] or response.reason)


def _socket_kept_alive(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _use_small_tls_buffers() -> None:
    """Let each TLS connection of this process that is opened from now on have a small buffer.

    asyncio's is 256 KiB, for as long as the connection lasts, and a thousand followed logs are a
    thousand connections.
    """
    # The most that one TLS record holds.
    sslproto.SSLProtocol.max_size = 16 * 1024
