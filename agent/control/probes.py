"""Health, readiness and metrics, and the measuring of every request."""

import time
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from agent.control.app_keys import METRICS, PLANE, STOPPING, WAITED
from agent.control.metrics import CONTENT_TYPE
from agent.control.middleware.errors import error_response, masked

#: Server-sent events: open for as long as a page is.
_EVENTS: Final = "/launch/events"


@web.middleware
async def measure_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Observe the duration by route and status, except of requests that wait for something."""
    began = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
    except web.HTTPException as error:
        status = error.status
        raise
    else:
        return response
    finally:
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "none"
        if route != _EVENTS and WAITED not in request:
            seconds = time.perf_counter() - began
            request.app[METRICS].requests.labels(route, str(status)).observe(seconds)


async def healthz(_request: web.Request) -> web.Response:
    """The process answers."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """The database answers, and the server is not shutting down."""
    if request.app[STOPPING].is_set():
        return error_response(request, 503, "STOPPING", "The server is shutting down.")
    try:
        await request.app[PLANE].ready()
    except Exception as error:  # noqa: BLE001 -- any failure of the database means not ready
        return error_response(request, 503, "NOT_READY", masked(error))
    return web.Response(text="ok\n")


async def metrics(request: web.Request) -> web.Response:
    """All metrics in Prometheus' text format."""
    body = await request.app[METRICS].expose(request.app[PLANE])
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


async def no_telemetry(request: web.Request) -> web.Response:
    """404, at which W&B's clients send no telemetry; any other response would start it."""
    return error_response(request, 404, "NOT_FOUND", "This server takes no telemetry.")
