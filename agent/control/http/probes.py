"""`/healthz`, `/readyz`, `/metrics`, and what clients probe for that we do not have."""

from aiohttp import web

from agent.control.http.answers import masked, refuse
from agent.control.keys import METRICS, PLANE, STOPPING
from agent.control.metrics import CONTENT_TYPE


async def healthz(_request: web.Request) -> web.Response:
    """The process answers."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """The store answers, and the server is not about to stop."""
    if request.app[STOPPING].is_set():
        return refuse(request, 503, "STOPPING", "The server is stopping.")
    try:
        await request.app[PLANE].ready()
    except Exception as error:  # noqa: BLE001 -- whatever is wrong with the store: not ready
        return refuse(request, 503, "NOT_READY", masked(error))
    return web.Response(text="ok\n")


async def metrics(request: web.Request) -> web.Response:
    """The figures, for Prometheus."""
    body = await request.app[METRICS].expose(request.app[PLANE])
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


async def no_telemetry(request: web.Request) -> web.Response:
    """404 tells clients to send no telemetry; any other answer would start it."""
    return refuse(request, 404, "NOT_FOUND", "This server takes no telemetry.")
