"""An HTTP proxy to a Kubernetes API server that loses requests and answers."""

import json
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from tests.infrastructure.state import KubernetesFacts

_DROPPED = {"Transfer-Encoding", "Content-Length", "Connection", "Host"}


class LossyApi:
    """Forwards to a server that asks for no credentials."""

    def __init__(self, server: str) -> None:
        self.address = ""
        #: Creations of a Job, by its name: so many are lost on their way to the server.
        self.requests_lost: defaultdict[str, int] = defaultdict(int)
        #: Names of Jobs whose creation takes effect, and the answer to it is lost.
        self.answers_lost: set[str] = set()
        self._server = server
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
        )

    def write_kubeconfig(self, target: Path, namespace: str) -> Path:
        context = {"cluster": "lossy", "user": "nobody", "namespace": namespace}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lossy",
            "clusters": [{"name": "lossy", "cluster": {"server": self.address}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "lossy", "context": context}],
        }
        target.write_text(json.dumps(document))
        return target

    async def forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        name = ""
        if request.method == "POST" and request.path.endswith("/jobs"):
            name = json.loads(body)["metadata"]["name"]
        if self.requests_lost[name]:
            self.requests_lost[name] -= 1
            return _cut(request)
        headers = {key: value for key, value in request.headers.items() if key not in _DROPPED}
        url = self._server + request.raw_path
        async with self._session.request(
            request.method, URL(url, encoded=True), headers=headers, data=body
        ) as answer:
            if name in self.answers_lost:
                self.answers_lost.remove(name)
                await answer.read()
                return _cut(request)
            kept = {key: value for key, value in answer.headers.items() if key not in _DROPPED}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def close(self) -> None:
        await self._session.close()


def _cut(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


@asynccontextmanager
async def lossy_api(server: str) -> AsyncIterator[LossyApi]:
    """The proxy, on a free port of loopback; `server` is the address of a `kubectl proxy`."""
    api = LossyApi(server)
    app = web.Application(client_max_size=8 * 1024**2)
    app.router.add_route("*", "/{path:.*}", api.forward)
    # Watches and logs end with their readers.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=5)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield api
    finally:
        await runner.cleanup()
        await api.close()


@contextmanager
def credentials_proxy(cluster: KubernetesFacts) -> Iterator[str]:
    """The address of a `kubectl proxy`, which has the credentials that clients need not have."""
    command = [cluster.kubectl, f"--kubeconfig={cluster.kubeconfig}", "proxy", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://{process.stdout.readline().split()[-1]}"
        finally:
            process.terminate()
