"""Exponential backoff."""

import random
from collections.abc import Awaitable, Callable
from typing import Final

Sleep = Callable[[float], Awaitable[None]]

_FIRST: Final = 0.5
_MAX_PAUSE_SECONDS: Final = 15.0


class Backoff:
    """Exponential pauses up to a limit, with jitter; seconds."""

    def __init__(self, first: float = _FIRST, longest: float = _MAX_PAUSE_SECONDS) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self) -> float:
        """The next pause."""
        upper, self._next = self._next, min(self._next * 2, self._longest)
        # Jitter keeps agents from retrying all at once; it needs no secure randomness.
        return upper * (0.5 + random.random() / 2)  # noqa: S311

    def reset(self) -> None:
        """Start over after a success."""
        self._next = self._first
