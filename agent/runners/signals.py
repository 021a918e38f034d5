"""Exit codes that shells and engines write for a death by signal."""

import signal
from typing import Final

_BASE: Final = 128
_KNOWN: Final = frozenset(signal.valid_signals())


def signal_of(exit_code: int | None) -> int | None:
    """The signal behind `128 + n`.

    A program may return such a code by itself; the convention is the best there is.
    """
    number = (exit_code or 0) - _BASE
    return number if number in _KNOWN else None
