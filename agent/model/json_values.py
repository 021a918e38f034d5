"""Untrusted JSON: decoded, and checked for values that stores and other languages cannot hold."""

import json
import re
from typing import Any, Final

from agent.model.errors import InvalidInputError

#: Objects and lists within each other; Python's own recursion ends some hundred levels later.
MAX_DEPTH: Final = 100

_INT64: Final = range(-(2**63), 2**63)
#: Where a text has none of these, none of its values can be out of bounds.
_SUSPECT: Final = re.compile(r"\\u0000|\\u[dD][89a-fA-F]|[0-9]{19}|\0")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SHOWN: Final = 40


def decode(data: bytes | str, what: str, *, of_runs: bool = False) -> Any:
    """The value of a JSON text; bare NaN and Infinity pass.

    `of_runs`: what runs report about themselves is kept as it is, so that integers of any size
    (seeds have 128 bits) and NUL characters pass.

    Raises:
        InvalidInputError: not JSON in UTF-8, or as `check_value`.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInputError(f"{what} is not JSON in UTF-8.") from None
    if text.count("{") + text.count("[") > MAX_DEPTH or _SUSPECT.search(text):
        check_value(value, what, of_runs=of_runs)
    return value


def check_value(value: Any, what: str, *, of_runs: bool = False) -> None:
    """Check that a value can be stored and shown everywhere.

    Raises:
        InvalidInputError: a text with a NUL character or a lone surrogate (invalid Unicode), an
            integer beyond 64 bits, or more than 100 levels.
    """
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise InvalidInputError(f"{what} has more than {MAX_DEPTH} levels within each other.")
        below: list[Any] = []
        for each in level:
            _check_leaf(each, what, of_runs=of_runs)
            if isinstance(each, dict):
                below += each
                below += each.values()
            elif isinstance(each, list):
                below += each
        level = below


def _check_leaf(value: Any, what: str, *, of_runs: bool) -> None:
    if isinstance(value, str):
        check_text(value.replace("\0", "") if of_runs else value, what)
    elif isinstance(value, int) and value not in _INT64 and not of_runs:
        shown = f"{value:.3e}" if abs(value) < 10**300 else "a number of more than 300 digits"
        raise InvalidInputError(
            f"{what} has {shown}, which is not an integer of 64 bits.",
            hint="Send it as text, or as a number with a decimal point.",
        )


def check_text(text: str, what: str) -> None:
    """Check one text.

    Raises:
        InvalidInputError: it has a NUL character, or a lone surrogate.
    """
    if text.isascii() and "\0" not in text:
        return
    found = "a NUL character" if "\0" in text else "a lone surrogate (invalid Unicode)"
    if "\0" in text or _SURROGATE.search(text):
        shown = text[:_SHOWN].encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
        raise InvalidInputError(f"{what} has {found} in '{shown}'.", hint="Leave it out.")
