"""A container engine that answers as it is told to, on a socket of its own."""

import asyncio
import json
from contextlib import asynccontextmanager

from aiohttp import web

ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "d" * 64


def image(**changes):
    return {
        "Id": ID, "RepoTags": ["shelf/tool:1"], "RepoDigests": [], "Os": "linux",
        "Architecture": "amd64", "Size": 100, "Config": {"Labels": None}, **changes,
    }  # fmt: skip


class FakeEngine:
    """`images` by reference; `pull` and `push` are the lines that they answer with."""

    def __init__(self):
        self.images = {}
        self.pulled = {}
        self.lines = [{"status": "Pulling from shelf/tool", "id": "1"}, {"status": "Status: done"}]
        self.status = 200
        self.refuse = {}
        self.requests = []
        self.sent = []
        self.listed = []
        self.hang = asyncio.Event()
        self.hanging = False

    async def handle(self, request):
        self.requests.append((request.method, request.path, dict(request.query)))
        self.sent.extend(request.headers.items())
        for part, (status, message) in self.refuse.items():
            if part in request.path:
                return web.json_response({"message": message}, status=status)
        fixed = {
            "/version": {"Os": "linux", "Arch": "amd64"},
            "/images/json": self.listed,
            "/build/prune": {"SpaceReclaimed": 7},
        }
        if request.path in fixed:
            return web.json_response(fixed[request.path])
        if request.path.endswith("/json"):
            name = request.path.removeprefix("/images/").removesuffix("/json")
            found = self.images.get(name)
            body = found or {"message": f"No such image: {name}"}
            return web.json_response(body, status=200 if found else 404)
        if request.path == "/images/create" or request.path.endswith("/push"):
            return await self._stream(request)
        return web.Response(status=201)

    async def _stream(self, request):
        answer = web.StreamResponse(status=self.status)
        await answer.prepare(request)
        if self.hanging:
            await self.hang.wait()
        for line in self.lines:
            await answer.write(json.dumps(line).encode() + b"\r\n")
        self.images.update(self.pulled)
        await answer.write_eof()
        return answer

    @property
    def pulls(self):
        return [query for method, path, query in self.requests if path == "/images/create"]


@asynccontextmanager
async def serving(folder):
    fake = FakeEngine()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    socket = folder / "e.sock"
    await web.UnixSite(runner, str(socket)).start()
    fake.host = f"unix://{socket}"
    try:
        yield fake
    finally:
        await runner.cleanup()
