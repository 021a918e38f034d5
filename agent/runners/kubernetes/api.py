"""Calls of the Kubernetes API: JSON in, JSON out.

The library knows kubeconfig files, contexts, credential plugins and service accounts; objects
stay plain dictionaries, since a job's manifest may hold what no model of the library has.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_delay
from tenacity.wait import wait_random_exponential

from agent.config.execution import KubernetesRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, UnavailableError
from agent.model.spec import Json

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

NOT_FOUND: Final = 404
CONFLICT: Final = 409
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_TOO_MANY: Final = 429
_SERVER_ERRORS: Final = range(500, 600)
_GOOD: Final = range(200, 300)
#: Seconds for one call, and for a call with its repeats.
_CALL_TIMEOUT: Final = 30.0
_RETRY_FOR: Final = 60.0
_MERGE_PATCH: Final = "application/merge-patch+json"


class ClusterUnreachableError(UnavailableError):
    """The API server cannot be reached, or answers with a failure of its own."""

    def __init__(self, server: str, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(
            Cause.LOST_ENGINE,
            f"The Kubernetes API at {server} does not answer ({reason}).",
            hint="Check it with `kubectl get --raw /readyz`.",
        )
        self.retry_after = retry_after


class ClusterRefusedError(JobError):
    """The API server refused a request: `status` as in HTTP, `reason` as it names it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        hint = None
        if status == _FORBIDDEN:
            hint = "Grant the agent's account what docs/kubernetes.md lists."
        elif status == _UNAUTHORIZED:
            hint = "Renew the credentials of the kubeconfig."
        super().__init__(Cause.START_FAILED, f"Kubernetes: {message.rstrip('.')}.", hint=hint)
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


JOBS: Final = Kind("/apis/batch/v1", "jobs")
PODS: Final = Kind("/api/v1", "pods")
SECRETS: Final = Kind("/api/v1", "secrets")
EVENTS: Final = Kind("/api/v1", "events")


class ClusterApi:
    """One cluster; an async context manager that owns its connections."""

    def __init__(
        self,
        config: KubernetesRunnerConfig,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._config = config
        self._sleep = sleep
        self._client: ApiClient | None = None
        self._namespace = config.namespace or "default"

    async def __aenter__(self) -> Self:
        from kubernetes.aio import client, config
        from kubernetes.aio.config import kube_config

        settings = client.Configuration()
        settings.retries = False
        try:
            if self._config.in_cluster:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            else:
                await config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=_text(self._config.kubeconfig),
                    context=self._config.context,
                    client_configuration=settings,
                )
                if self._config.namespace is None:
                    _, active = kube_config.list_kube_config_contexts(  # type: ignore[no-untyped-call]
                        _text(self._config.kubeconfig)
                    )
                    self._namespace = active["context"].get("namespace") or "default"
        except (config.ConfigException, OSError, ValueError, TypeError) as error:
            message = f"`runners.kubernetes`: the cluster's configuration cannot be used: {error}."
            hint = "Set `kubeconfig` and `context`, or `in_cluster: true` within a cluster."
            raise ConfigError(message, hint=hint) from None
        self._client = client.ApiClient(settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()  # type: ignore[no-untyped-call]

    @property
    def namespace(self) -> str:
        """Where jobs run unless their manifest names another one."""
        return self._namespace

    @property
    def server(self) -> str:
        """Its URL."""
        return str(self._opened.configuration.host)

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json | None:
        """An object or a list; `None` if there is none.

        Raises:
            ClusterUnreachableError, ClusterRefusedError: after all repeats.
        """
        try:
            return await self._repeated("GET", path, query=query)
        except ClusterRefusedError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def create(self, path: str, body: Json) -> Json | None:
        """Create a named object; `None` if the name is taken, perhaps by an earlier try.

        Repeating is safe: the name exists once.
        """
        try:
            return await self._repeated("POST", path, body=body)
        except ClusterRefusedError as error:
            if error.status == CONFLICT and error.reason == "AlreadyExists":
                return None
            raise

    async def patch(self, path: str, change: Json) -> Json | None:
        """Merge a change into an object; `None` if it is gone."""
        try:
            return await self._repeated("PATCH", path, body=change, media_type=_MERGE_PATCH)
        except ClusterRefusedError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def delete(
        self, path: str, options: Json, query: Mapping[str, str] | None = None
    ) -> bool:
        """Delete an object or a collection; False if a precondition does not hold.

        What is gone already is deleted.
        """
        try:
            await self._repeated("DELETE", path, query=query, body=options)
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

        Raises:
            ClusterUnreachableError: no answer, or the connection broke.
            ClusterRefusedError: see there.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=read_timeout)
        try:
            response = await self._send("GET", path, query, None, None, timeout)
            try:
                await self._check(response)
                yield response
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterUnreachableError(self.server, _reason(error)) from error

    @property
    def _opened(self) -> "ApiClient":
        if self._client is None:
            message = "ClusterApi is used outside its `async with`."
            raise RuntimeError(message)
        return self._client

    async def _repeated(self, method: str, path: str, **given: Any) -> Json:
        tries = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ClusterUnreachableError)),
            stop=stop_after_delay(_RETRY_FOR),
            wait=_wait,
            sleep=self._sleep,
            reraise=True,
        )
        return await tries(self._call, method, path, **given)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        media_type: str | None = None,
    ) -> Json:
        timeout = aiohttp.ClientTimeout(total=_CALL_TIMEOUT)
        try:
            response = await self._send(method, path, query, body, media_type, timeout)
            async with response:
                await self._check(response)
                found: Json = await response.json()
                return found
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ClusterUnreachableError(self.server, _reason(error)) from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        media_type: str | None,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = media_type or "application/json"
        call = await self._opened.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = await self._opened.call_api(*call, _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status in _GOOD:
            return
        text = await response.text()
        try:
            status = json.loads(text)
        except ValueError:
            status = {}
        message = str(status.get("message") or text[:500] or response.reason)
        if response.status == _TOO_MANY or response.status in _SERVER_ERRORS:
            pause = response.headers.get("Retry-After", "")
            seconds = float(pause) if pause.isdigit() else 0.0
            raise ClusterUnreachableError(self.server, message, seconds)
        raise ClusterRefusedError(response.status, str(status.get("reason") or ""), message)


_backoff = wait_random_exponential(multiplier=0.2, max=5.0)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ClusterUnreachableError) else 0.0
    return max(asked, _backoff(state))


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _text(path: object) -> str | None:
    return None if path is None else str(path)
