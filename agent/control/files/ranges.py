"""Range requests for what never changes: a part of a file, as interrupted downloads ask for it."""

from aiohttp import web

from agent.model.errors import LaunchError


class RangeNotSatisfiableError(LaunchError):
    """The range begins behind the file's end."""

    code = "RANGE_NOT_SATISFIABLE"


def wanted_range(request: web.Request, size: int, etag: str) -> tuple[int, int] | None:
    """First byte and the one after the last; `None` when the whole file is wanted.

    Several ranges, other units and malformed headers count as none, as RFC 9110 allows.

    Raises:
        RangeNotSatisfiableError
    """
    if request.method != "GET" or request.headers.get("If-Range", etag) != etag:
        return None
    try:
        given = request.http_range
    except ValueError:
        return None
    if given.start is None:
        return None
    start = max(size + given.start, 0) if given.start < 0 else given.start
    end = size if given.stop is None else min(given.stop, size)
    if start >= size or start >= end:
        raise RangeNotSatisfiableError(f"The file has {size} bytes.")
    return start, end
