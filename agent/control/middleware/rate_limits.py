"""Limits the rate of requests: by key, or by address on public routes, with a token bucket each.

Public routes are the only ones that a request without a key reaches.

A bucket holds a burst and fills at a rate. Its memory is that of one process: several replicas
allow as many times more. Agents with a key of their own (`launch key create --for-agent`) are not
slowed by what people's scripts send.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from agent.control.bodies import read_bytes
from agent.control.middleware.errors import error_response
from agent.control.request_data import PRINCIPAL, peer_address

_MAX_BUCKETS: Final = 16_384
#: Signed URLs are used without a key, one for each file of an artifact.
_SIGNED: Final = "/storage/"
#: Bytes of a refused request's body that are read all the same.
_SMALL_BODY: Final = 64 * 1024
#: Seconds before a refusal.
_DELAY: Final = 0.25


class Buckets:
    """Token buckets by name, in bounded memory: the one used longest ago is forgotten."""

    def __init__(
        self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float | None:
        """Take one token; returns the seconds to wait when there is none."""
        now = self._clock()
        tokens, since = self._buckets.pop(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        allowed = tokens >= 1
        self._buckets[name] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return None if allowed else (1 - tokens) / self._per_second


BUCKETS: Final = web.AppKey("request_buckets", Buckets)


@web.middleware
async def limit_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 429 with `Retry-After` to a key or address that sends too many requests."""
    wait = None
    if not request.path.startswith(_SIGNED):
        wait = request.app[BUCKETS].take(_sender(request))
    if wait is None:
        return await handler(request)
    if (request.content_length or 0) <= _SMALL_BODY:
        # Else the connection would be closed while the client writes, and it may miss the answer.
        await read_bytes(request, _SMALL_BODY)
    # One that does not wait as it is told to costs the others less, for each of its connections.
    await asyncio.sleep(_DELAY)
    seconds = math.ceil(wait)
    what = "with this key" if PRINCIPAL in request else "from this address"
    message = f"Too many requests {what}."
    response = error_response(request, 429, "TOO_MANY_REQUESTS", message, hint=f"Wait {seconds} s.")
    response.headers["Retry-After"] = str(seconds)
    return response


def _sender(request: web.Request) -> str:
    principal = request.get(PRINCIPAL)
    if principal is None:
        return f"address {peer_address(request)}"
    return f"key {principal.key_id}"
