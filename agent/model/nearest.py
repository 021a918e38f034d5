"""Suggestions for names that were mistyped."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that looks most like the given one, if any looks alike at all."""
    by_folded = {_folded(candidate): candidate for candidate in known}
    matches = get_close_matches(_folded(name), by_folded, n=1, cutoff=cutoff)
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str], noun: str) -> str:
    """A sentence: the nearest name, else all there are, else that there are none."""
    names = sorted(known)
    match = nearest(name, names)
    if match is not None:
        return f"Did you mean `{match}`?"
    if not names:
        return f"There is no {noun} yet."
    return f"Known: {', '.join(f'`{each}`' for each in names[:20])}."


def _folded(name: str) -> str:
    return name.lower().replace("_", "-")
