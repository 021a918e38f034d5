"""Names that both halves know, rules for names, and suggestions for mistyped ones."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from agent.model.errors import InvalidInputError

#: Priorities of items by number: 0 is the highest.
PRIORITIES: Final = ("critical", "high", "medium", "low")
#: Resources that our agents have runners for; plugins may add others.
CONTAINERS: Final = "local-container"
PROCESSES: Final = "local-process"
KUBERNETES: Final = "kubernetes"
#: The control plane creates this queue and this project when they are first used.
DEFAULT_QUEUE: Final = "default"
DEFAULT_PROJECT: Final = "default"

_MAX_PROJECT_CHARS: Final = 128
_FORBIDDEN_IN_PROJECTS: Final = frozenset("/\\#?%:")


def safe_image_name(text: str) -> str:
    """A valid repository name for an image: lower-case, separators between letters."""
    lowered = re.sub(r"[^a-z0-9._/-]", "-", text.lower())
    parts = [re.sub(r"^[._-]+|[._-]+$", "", part) for part in lowered.split("/")]
    kept = [re.sub(r"[._-]{2,}", "-", part) for part in parts if part]
    return "/".join(kept)[:200] or "image"


def checked_project(name: str) -> str:
    """`name`, if a project may have it.

    Raises:
        InvalidInputError: a reference or an address with it could not be read.
    """
    fits = 0 < len(name) <= _MAX_PROJECT_CHARS and name == name.strip() and name not in {".", ".."}
    if fits and not _FORBIDDEN_IN_PROJECTS & set(name) and name.isprintable():
        return name
    shown = "".join(c if c.isprintable() else "�" for c in name[:_MAX_PROJECT_CHARS])
    hint = (
        f"1 to {_MAX_PROJECT_CHARS} characters, without `/ \\ # ? % :` and no blank at either end."
    )
    raise InvalidInputError(f"'{shown}' cannot be the name of a project.", hint=hint)


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
