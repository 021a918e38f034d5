"""Failed tries to sign in, by address: after too many, the answer is 429.

A key that is right always passes, whatever came before it from the same address: many
clients share one (every job of a machine), and keys have 240 bits, so that what must be
limited is the work and the noise of guessing, not its chances.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_BURST: Final = 50
_PER_SECOND: Final = 0.5
_REMEMBERED: Final = 4096


class Throttle:
    """A token bucket per address, in bounded memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def failed(self, address: str) -> int | None:
        """Count a failed try; returns seconds to wait when there were too many."""
        now = self._clock()
        tokens, since = self._buckets.pop(address, (float(_BURST), now))
        tokens = min(_BURST, tokens + (now - since) * _PER_SECOND)
        self._buckets[address] = (max(0.0, tokens - 1), now)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return None if tokens >= 1 else math.ceil((1 - tokens) / _PER_SECOND)
