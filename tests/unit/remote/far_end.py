"""A real HTTP server on loopback that answers as a test says."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.infrastructure.web import serving as listening

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FarEnd:
    """Answers in turn; the last one stays."""

    url: str = ""
    answers: list[Handler] = field(default_factory=list)
    #: Method, path with query, body.
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def then(self, *answers: Handler) -> None:
        self.answers += answers

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path_qs, await request.read()))
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)

    def asked(self, number: int = -1) -> Any:
        return json.loads(self.seen[number][2])


def data(**fields: Any) -> Handler:
    return reply(200, {"data": fields})


def error(code: str | None, message: str, hint: str | None = None) -> Handler:
    extensions = {"code": code, "hint": hint} if code else {}
    return reply(200, {"data": None, "errors": [{"message": message, "extensions": extensions}]})


def reply(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(status=status, body=raw, headers=headers)

    return answer


def pieces(*parts: bytes, cut: bool = False, headers: dict[str, str] | None = None) -> Handler:
    """A chunked answer, cut before its end if asked."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


async def cut(request: web.Request) -> web.StreamResponse:
    """Hang up without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@asynccontextmanager
async def far_end() -> AsyncIterator[FarEnd]:
    end = FarEnd()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", end.handle)
    async with listening(app) as end.url:
        yield end
