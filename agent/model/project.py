"""Names of projects: W&B's rule, so that every project can be referred to and has a page."""

from typing import Final

from agent.model.errors import InvalidInputError

_LONGEST: Final = 128
_FORBIDDEN: Final = frozenset("/\\#?%:")


def checked_project(name: str) -> str:
    """`name`, if a project may have it.

    Raises:
        InvalidInputError: a reference or an address with it could not be read.
    """
    fits = 0 < len(name) <= _LONGEST and name == name.strip() and name not in {".", ".."}
    if fits and not _FORBIDDEN & set(name) and name.isprintable():
        return name
    shown = "".join(c if c.isprintable() else "�" for c in name[:_LONGEST])
    raise InvalidInputError(
        f"'{shown}' cannot be the name of a project.",
        hint=f"1 to {_LONGEST} characters, without `/ \\ # ? % :` and no blank at either end.",
    )
