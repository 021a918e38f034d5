"""The outermost layer: headers on every answer, errors in their shape, durations counted."""

import time
from typing import Final

from aiohttp import ClientConnectionResetError, web
from aiohttp.typedefs import Handler

from agent.control.http.answers import masked, refuse, refuse_error
from agent.control.keys import METRICS, WAITED
from agent.model.errors import LaunchError

#: Nothing inline, nothing from elsewhere, no frames around it.
_CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_EVENTS: Final = "/launch/events"


async def secure_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Signal of the app: before any answer is sent; what a handler set itself stays."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)


@web.middleware
async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request by route and status (routes are few, paths are not), unless it waited."""
    began = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
    except web.HTTPException as answer:
        status = answer.status
        raise
    else:
        return response
    finally:
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "none"
        if route != _EVENTS and WAITED not in request:
            seconds = time.perf_counter() - began
            request.app[METRICS].requests.labels(route, str(status)).observe(seconds)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors of ours with their code, all others masked with a reference."""
    try:
        return await handler(request)
    except LaunchError as error:
        return refuse_error(request, error)
    except web.HTTPException as error:
        if error.status < 400:  # noqa: PLR2004 -- redirects are answers, not errors
            raise
        return refuse(request, error.status, _code(error), error.reason)
    except ClientConnectionResetError:
        # The client closed the connection while a file or a log was sent to it.
        return refuse(request, 408, "BROKEN_OFF", "The connection broke off.")
    except Exception as error:  # noqa: BLE001 -- the last line: nothing unmasked passes
        return refuse(request, 500, "SERVER_ERROR", masked(error, path=request.path))


def _code(error: web.HTTPException) -> str:
    return error.reason.upper().replace(" ", "_")
