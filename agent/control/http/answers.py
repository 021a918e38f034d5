"""Refusals and errors as HTTP answers, in the one shape that clients read."""

import json
import uuid
from typing import Any, Final

import structlog
from aiohttp import web

from agent.model.errors import LaunchError

_STATUS: Final = {
    "INVALID_INPUT": 400,
    "INVALID_CONFIG": 400,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "BROKEN_OFF": 408,
    "ALREADY_EXISTS": 409,
    "CONFLICT": 409,
    "FENCED": 409,
    "TOO_LARGE": 413,
    "DIGEST_MISMATCH": 422,
    "UNREACHABLE": 503,
    "STORAGE_FULL": 507,
}


def error_body(message: str, code: str, hint: str | None = None) -> dict[str, Any]:
    """`{"errors": [{"message", "extensions": {"code", "hint"}}]}`."""
    extensions = {"code": code} | ({"hint": hint} if hint else {})
    return {"errors": [{"message": message, "extensions": extensions}]}


def refuse(
    request: web.Request, status: int, code: str, message: str, *, hint: str | None = None
) -> web.Response:
    """An error answer; the connection is closed when the request's body was left unread."""
    answer = web.json_response(error_body(message, code, hint), status=status)
    # Scripts of pages are told by the status; asked for Basic, a browser would open a dialog.
    by_script = "Sec-Fetch-Mode" in request.headers
    if status == web.HTTPUnauthorized.status_code and not by_script:
        answer.headers["WWW-Authenticate"] = 'Basic realm="launch"'
    if request.can_read_body and not request.content.at_eof():
        answer.force_close()
    return answer


def refuse_error(request: web.Request, error: LaunchError) -> web.Response:
    """The answer for an error of ours."""
    status = _STATUS.get(error.code, 500)
    return refuse(request, status, error.code, error.message, hint=error.hint)


def masked(error: BaseException, **facts: str) -> str:
    """Log an unexpected failure in full, and return the sentence that callers may see."""
    reference = uuid.uuid4().hex[:12]
    structlog.get_logger().error("internal error", reference=reference, exc_info=error, **facts)
    return f"internal error, reference {reference}"


def dumps(value: Any) -> str:
    """Compact JSON; NaN and Infinity pass, as clients write and read them."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
