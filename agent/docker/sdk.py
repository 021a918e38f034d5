"""The docker SDK, in the thread pool and imported when first needed.

For rare calls: creating the network, reading past events. It costs 10 MiB of memory, so what
every agent asks at its start, and what every job needs, goes over `client`.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent.docker.client import Engine
from agent.docker.errors import EngineUnavailableError
from agent.model.errors import ConfigError

if TYPE_CHECKING:
    from docker.api.client import APIClient

T = TypeVar("T")

#: Seconds for a call, and for a ping before it.
_CALL: Final = 60
_PING: Final = 10.0


class DockerSdk:
    """Runs calls on one low-level client of the SDK.

    The client is made once; the lock keeps two threads from making two. Its calls share a
    connection pool that is safe for threads.
    """

    def __init__(self, engine: Engine, threads: Executor) -> None:
        self._engine = engine
        self._address = engine.address
        self._threads = threads
        self._lock = threading.Lock()
        self._client: APIClient | None = None

    async def call(self, work: Callable[["APIClient"], T]) -> T:
        """Run `work` with the client in a thread.

        Error statuses of the engine are raised as the SDK's own `docker.errors.APIError`.

        Raises:
            EngineUnavailableError: it cannot be reached.
        """
        # The SDK leaks a socket for each connection that fails: ping with our client first.
        await self._engine.call("GET", "/_ping", limit=_PING)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, work)

    def close(self) -> None:
        """Close its connections. Blocks."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _run(self, work: Callable[["APIClient"], T]) -> T:
        from docker.errors import APIError, DockerException
        from requests.exceptions import RequestException

        try:
            return work(self._opened_client())
        except APIError:
            raise
        except (DockerException, RequestException, OSError) as error:
            raise EngineUnavailableError(self._address.given, str(error)) from error

    def _opened_client(self) -> "APIClient":
        from docker.api.client import APIClient

        with self._lock:
            if self._client is None:
                self._client = APIClient(
                    base_url=self._address.given,
                    version="auto",
                    timeout=_CALL,
                    tls=self._tls(),
                )
            return self._client

    def _tls(self) -> Any:
        folder = self._address.certificates
        if folder is None:
            return False
        from docker.errors import TLSParameterError
        from docker.tls import TLSConfig

        try:
            return TLSConfig(
                client_cert=(str(folder / "cert.pem"), str(folder / "key.pem")),
                ca_cert=str(folder / "ca.pem"),
                verify=self._address.verify,
            )
        except TLSParameterError as error:
            raise ConfigError(f"DOCKER_CERT_PATH: {error}.") from error
