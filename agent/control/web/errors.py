"""Refusals and failures as pages: one sentence, and a way on."""

import functools
from collections.abc import Awaitable, Callable

from aiohttp import web

from agent.control.http.answers import masked
from agent.control.web.keys import RENDERER, viewer_name
from agent.model.errors import LaunchError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS = {
    "INVALID_INPUT": 400,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "CONFLICT": 409,
    "UNREACHABLE": 503,
}
_TITLES = {
    400: "That cannot be shown",
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    409: "That is not possible now",
    503: "Not available at the moment",
}


def error_page(
    request: web.Request, status: int, message: str, *, hint: str | None = None
) -> web.Response:
    """The page for an error that has a sentence."""
    signed_out = status == web.HTTPUnauthorized.status_code
    return request.app[RENDERER].page(
        "error.html",
        user=viewer_name(request),
        status=status,
        title=_TITLES.get(status, "Something went wrong"),
        message=message,
        hint=hint,
        way_on="/login" if signed_out else "/launch",
        way_on_text="Sign in" if signed_out else "See all queues",
    )


def as_page(handler: Handler) -> Handler:
    """Answer errors of a handler as pages; what is unexpected is logged and masked."""

    @functools.wraps(handler)
    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except LaunchError as error:
            status = _STATUS.get(error.code, 500)
            return error_page(request, status, error.message, hint=error.hint)
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001 -- a page's last line: nothing unmasked passes
            return error_page(request, 500, f"{masked(error, path=request.path)}.")

    return answered


async def no_such_page(request: web.Request) -> web.StreamResponse:
    """For addresses that mean nothing."""
    return error_page(request, 404, f"There is no page {request.path}.")
