"""Durations and sizes with units, as users write them in configuration and on flags."""

import math
import re
from typing import Final

from agent.model.errors import InvalidInputError

_DURATIONS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZES: Final = {
    "": 1, "b": 1,
    "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4,
    "ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4,
    "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4,
}  # fmt: skip
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")


def parse_duration(text: str) -> float:
    """Seconds in a text such as `90s`, `1h30m`, `2d`.

    A bare `0` is allowed; any other number needs its unit, because seconds and minutes
    are confused too easily.

    Raises:
        InvalidInputError: not such a text.
    """
    compact = text.strip().lower()
    if compact == "0":
        return 0.0
    parts = _PART.findall(compact)
    if not parts or _PART.sub("", compact).strip():
        message = f"'{text}' is not a duration."
        raise InvalidInputError(message, hint="Write a number with a unit: 30s, 10m, 2h, 1h30m.")
    return sum(float(number) * _DURATIONS[unit] for number, unit in parts)


def parse_size(text: str) -> int:
    """Bytes in a text such as `512m`, `2Gi`, `1.5GB`; Docker's letters mean powers of 1024.

    Raises:
        InvalidInputError: not such a text.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _SIZES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        message = f"'{text}' is not a size."
        raise InvalidInputError(message, hint="Write a number with a unit: 512MiB, 2GiB, 10GB.")
    size = float(match[1]) * factor
    if size == math.inf:
        raise InvalidInputError(f"'{text[:20]}…' is not a size: it has {len(text)} characters.")
    return int(size)


def format_duration(seconds: float) -> str:
    """A short text for users: `0.4 s`, `12 s`, `3 m 05 s`, `2 h 10 m`."""
    if seconds < 10:  # noqa: PLR2004 -- below ten seconds a decimal is useful
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} m {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} m"


def format_size(count: int) -> str:
    """A short text for users, in powers of 1024: `512 B`, `1.5 KiB`, `20.0 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
