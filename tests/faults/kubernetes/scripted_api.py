"""An API server that does what a test tells it to, one watch at a time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from agent.config.execution import KubernetesRunnerConfig
from agent.model.work import LABEL_CONTROL_PLANE
from agent.runners.kubernetes.api import ClusterApi

NAMESPACE = "tests"
CONTROL_PLANE = "plane"
Json = dict[str, Any]


class Stream:
    """A response of a watch or of a log; open until the test closes or cuts it."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self.query = dict(request.query)
        self._request = request
        self._response = response
        self.over = asyncio.Event()

    async def event(self, kind: str, item: Json) -> None:
        await self.raw(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    async def raw(self, data: bytes) -> None:
        await self._response.write(data)

    async def close(self) -> None:
        """The ordinary end, as after `timeoutSeconds`."""
        await self._response.write_eof()
        self.over.set()

    def cut(self) -> None:
        """The connection breaks."""
        assert self._request.transport is not None
        self._request.transport.abort()
        self.over.set()


@dataclass
class Answer:
    """What is answered in place of the usual."""

    status: int
    body: Json | str = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class ScriptedApi:
    """Jobs, pods and events by plural; lists and watches of them, and what else is asked."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Json]] = {"jobs": {}, "pods": {}, "events": {}}
        self.version = 100
        #: Method, path and query of every request, without `/version`.
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.probes = 0
        #: Tokens that are accepted; `None` for any.
        self.tokens: set[str] | None = None
        #: Watches and logs that were opened, by plural (`log` for logs).
        self.opened: dict[str, asyncio.Queue[Stream]] = {}
        #: Decides about a request before anything else does.
        self.intercept: Callable[[web.Request], Answer | Awaitable[Answer | None] | None] = (
            lambda _: None
        )
        #: Stamped lines by pod and container: what a log has now, unless it is streamed.
        self.logs: dict[tuple[str, str], bytes] = {}
        self._streams: list[Stream] = []
        self.url = ""

    def put(self, plural: str, name: str, **parts: Any) -> Json:
        """A new version of an object; it is in the next list."""
        self.version += 1
        known = self.objects[plural].get(name, {"metadata": {"uid": f"uid-{plural}-{name}"}})
        labels = {LABEL_CONTROL_PLANE: CONTROL_PLANE}
        metadata = {
            "name": name,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **known["metadata"],
            "labels": labels | parts.pop("labels", known["metadata"].get("labels", {})),
            "resourceVersion": str(self.version),
            "managedFields": [{"manager": "x"}],
            **parts.pop("metadata", {}),
        }
        made = {"spec": {}, **known, **parts, "metadata": metadata}
        self.objects[plural][name] = made
        return json.loads(json.dumps(made))  # type: ignore[no-any-return]

    def remove(self, plural: str, name: str) -> Json:
        """Delete an object; the last version of it, as a watch shows it."""
        last = self.put(plural, name)
        del self.objects[plural][name]
        return last

    async def watch(self, plural: str) -> Stream:
        """The next watch that is opened."""
        async with asyncio.timeout(60):
            return await self.opened.setdefault(plural, asyncio.Queue()).get()

    def counted(self, method: str, plural: str, **query: str) -> int:
        """How many requests there were with this query."""
        return sum(
            (done, path.rpartition("/")[2]) == (method, plural) and query.items() <= asked.items()
            for done, path, asked in self.requests
        )

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        refused = self.tokens is not None and token not in self.tokens
        if request.path == "/version":
            self.probes += 1
        else:
            self.requests.append((request.method, request.path, dict(request.query)))
        decided = self.intercept(request)
        answer = await decided if isinstance(decided, Awaitable) else decided
        if answer is None and refused:
            answer = Answer(401, {"kind": "Status", "message": "Unauthorized"})
        if answer is not None:
            text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            return web.Response(status=answer.status, text=text, headers=answer.headers)
        plural = request.path.rpartition("/")[2]
        source = (request.path.split("/")[-2], request.query.get("container", ""))
        if plural == "log" and source in self.logs:
            return web.Response(body=_since(self.logs[source], request.query.get("sinceTime", "")))
        if request.query.get("watch") or plural == "log":
            return await self._stream(request, plural)
        if plural in self.objects:
            metadata = {"resourceVersion": str(self.version)}
            items = list(self.objects[plural].values())
            return web.json_response({"metadata": metadata, "items": items})
        return web.json_response({})

    async def _stream(self, request: web.Request, plural: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        stream = Stream(request, response)
        self._streams.append(stream)
        self.opened.setdefault(plural, asyncio.Queue()).put_nowait(stream)
        await stream.over.wait()
        return response

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["ScriptedApi"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
            yield self
        finally:
            for stream in self._streams:
                stream.over.set()
            await runner.cleanup()


def _since(log: bytes, stamp: str) -> bytes:
    """The lines from a whole second on, as a kubelet gives them."""
    lines = log.splitlines(keepends=True)
    return b"".join(line for line in lines if line[:19].decode() >= stamp.removesuffix("Z"))


def kubeconfig(path: Path, url: str, user: Json | None = None) -> KubernetesRunnerConfig:
    """Write a kubeconfig for a server."""
    parts = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user or {"token": "token"}}],
        "contexts": [
            {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}
        ],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **parts}))
    return KubernetesRunnerConfig(enabled=True, kubeconfig=path)


class Pauses:
    """A `sleep` that takes no time and remembers how long it was to be."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def api_of(
    server: ScriptedApi,
    path: Path,
    pauses: Pauses,
    user: Json | None = None,
    patience: float = 60.0,
) -> AsyncIterator[ClusterApi]:
    """A client of the server."""
    config = kubeconfig(path / "kubeconfig", server.url, user)
    async with ClusterApi(config, sleep=pauses, patience=patience) as api:
        yield api
