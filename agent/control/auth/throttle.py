"""The limit on failed authentications of one address."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_BURST: Final = 50
_PER_SECOND: Final = 0.5
_MAX_ADDRESSES: Final = 4096


class Throttle:
    """A token bucket of failed authentications for each address, in bounded memory.

    A valid key is always accepted, whatever failed before from the same address: many
    clients share one (every job of a machine). Keys have 240 random bits: the limit
    protects against load, not guessing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def failed(self, address: str) -> int | None:
        """Count a failed attempt; returns the seconds to wait when there were too many."""
        now = self._clock()
        tokens, since = self._buckets.pop(address, (float(_BURST), now))
        tokens = min(_BURST, tokens + (now - since) * _PER_SECOND)
        self._buckets[address] = (max(0.0, tokens - 1), now)
        if len(self._buckets) > _MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return None if tokens >= 1 else math.ceil((1 - tokens) / _PER_SECOND)
