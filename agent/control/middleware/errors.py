"""Errors as HTTP responses, in the one JSON shape that clients read."""

import uuid
from typing import Final

import structlog
from aiohttp import ClientConnectionResetError, web
from aiohttp.typedefs import Handler

from agent.control.store.write_batches import OverloadedError
from agent.model.errors import LaunchError

STATUS: Final = {
    "INVALID_INPUT": 400,
    "INVALID_CONFIG": 400,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "INCOMPLETE_BODY": 408,
    "ALREADY_EXISTS": 409,
    "CONFLICT": 409,
    "FENCED": 409,
    "TOO_LARGE": 413,
    # Clients repeat what is refused with 429 or 507, and somebody has to delete something first.
    "QUOTA_EXCEEDED": 413,
    "LOG_FULL": 413,
    "RANGE_NOT_SATISFIABLE": 416,
    "DIGEST_MISMATCH": 422,
    "UNREACHABLE": 503,
    "OVERLOADED": 503,
    "STORAGE_FULL": 507,
}

#: Seconds; clients add a random part.
_RETRY_AFTER: Final = "1"


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a `LaunchError` with its code, any other exception with a reference to the log."""
    try:
        return await handler(request)
    except LaunchError as error:
        status = STATUS.get(error.code, 500)
        response = error_response(request, status, error.code, error.message, hint=error.hint)
        if isinstance(error, OverloadedError):
            response.headers["Retry-After"] = _RETRY_AFTER
        return response
    except web.HTTPException as error:
        if error.status < 400:  # noqa: PLR2004 -- redirects are no errors
            raise
        code = error.reason.upper().replace(" ", "_")
        return error_response(request, error.status, code, error.reason)
    except ClientConnectionResetError:
        # The client closed the connection while a file or a log was sent: nobody reads this
        # response, and it must not count as a failure of the server.
        return error_response(request, 408, "CONNECTION_CLOSED", "The connection was closed.")
    except Exception as error:  # noqa: BLE001 -- no unmasked exception may reach a client
        return error_response(request, 500, "SERVER_ERROR", log_and_mask(error, path=request.path))


def error_response(
    request: web.Request, status: int, code: str, message: str, *, hint: str | None = None
) -> web.Response:
    """`{"errors": [{"message", "extensions": {"code", "hint"}}]}`.

    The connection is closed after it when the request's body was not read.
    """
    extensions = {"code": code} | ({"hint": hint} if hint else {})
    errors = {"errors": [{"message": message, "extensions": extensions}]}
    response = web.json_response(errors, status=status)
    # Asked for Basic authentication, a browser would open a dialog over the page whose script
    # made the request; scripts need only the status.
    by_script = "Sec-Fetch-Mode" in request.headers
    if status == web.HTTPUnauthorized.status_code and not by_script:
        response.headers["WWW-Authenticate"] = 'Basic realm="launch"'
    if request.can_read_body and not request.content.at_eof():
        response.force_close()
    return response


def log_and_mask(error: BaseException, **context: str) -> str:
    """Log an unexpected exception in full; returns the sentence that clients may see."""
    reference = uuid.uuid4().hex[:12]
    structlog.get_logger().error("internal error", reference=reference, exc_info=error, **context)
    return f"internal error, reference {reference}"
