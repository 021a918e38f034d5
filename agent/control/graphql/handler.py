"""`POST /graphql`."""

import asyncio
import json
from typing import Any

from aiohttp import web

from agent.control.app_keys import (
    CONFIG,
    CONTENTS,
    METRICS,
    PLANE,
    RUN_FILES,
    STOPPING,
    WAITED,
    base_url,
    principal_of,
)
from agent.control.files.links import Links
from agent.control.graphql.context import Context
from agent.control.graphql.execute import Executor, GraphQLRequest
from agent.control.middleware.bodies import read_json


class GraphQLHandler:
    """Answers GraphQL requests of one app."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._running: set[asyncio.Task[dict[str, Any]]] = set()

    async def __call__(self, request: web.Request) -> web.Response:
        """Always 200, once the body has been understood as a request."""
        body = await read_json(request, request.app[CONFIG].max_body)
        asked = GraphQLRequest.of(body)
        context = _context(request)
        try:
            answer = await self._run(asked, context, request.app[STOPPING])
        finally:
            if context.waited:
                request[WAITED] = True
        for error in answer.get("errors", ()):
            context.metrics.errors.labels(error["extensions"]["code"]).inc()
        # NaN and Infinity pass, as W&B's clients write and read them.
        text = json.dumps(answer, separators=(",", ":"), ensure_ascii=False)
        return web.Response(text=text, content_type="application/json")

    async def _run(
        self, asked: GraphQLRequest, context: Context, stopping: asyncio.Event
    ) -> dict[str, Any]:
        """Execute in a task of its own, which ends by itself and is never cut.

        A client that leaves cancels this handler, and cancelling a resolver in the middle of
        a transaction would leave the store to clean up. So the execution is told that its
        answer is unwanted, which ends a long poll, and is awaited to its end.
        """
        execution = asyncio.create_task(self._executor.run(asked, context))
        self._running.add(execution)
        execution.add_done_callback(self._running.discard)
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((execution, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if not execution.done():
                context.unwanted.set()
                await asyncio.wait((execution,))
        return execution.result()


def _context(request: web.Request) -> Context:
    app = request.app
    config, plane = app[CONFIG], app[PLANE]
    return Context(
        plane,
        principal_of(request),
        app[METRICS],
        contents=app[CONTENTS],
        run_files=app[RUN_FILES],
        links=Links(plane.signing_key, base_url(request), config.link_lifetime),
        max_manifest=config.max_manifest,
    )
