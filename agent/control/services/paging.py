"""Pages of long lists.

A page is queried with one row more than it has, which shows whether there is another.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from agent.model.errors import InvalidInputError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A slice of a longer list.

    `end_cursor` is given back as `after` to go on, `start_cursor` as `before` to go back.
    """

    rows: tuple[T, ...]
    end_cursor: str | None
    has_next: bool
    total: int
    start_cursor: str | None = None
    #: Whether there are rows before these; `None` where that was not looked up.
    has_previous: bool | None = None


_CURSOR: Final = re.compile("[0-9]{1,18}")

#: What clients ask for at most.
PAGE_LIMIT: Final = 5_000


def page_size(first: int) -> int:
    """A page's size.

    Raises:
        InvalidInputError: not 1 to 5,000.
    """
    if not 1 <= first <= PAGE_LIMIT:
        raise InvalidInputError(
            f"`first` is {first}.", hint=f"Ask for 1 to {PAGE_LIMIT} at a time."
        )
    return first


def cursor(text: str | None) -> int | None:
    """A cursor of an earlier page."""
    if text is None or text == "":
        return None
    if not _CURSOR.fullmatch(text):
        raise InvalidInputError(
            f"`after` is '{text[:40]}', which is not a cursor of an earlier page."
        )
    return int(text)


def page_of(found: Sequence[T], size: int, total: int, cursor_of: Callable[[T], object]) -> Page[T]:
    """One page of the rows found; `cursor_of` gives the cursor of a row."""
    rows = tuple(found[:size])
    last = str(cursor_of(rows[-1])) if rows else None
    return Page(rows, last, len(found) > size, total)


def numbered_page(
    found: Sequence[tuple[int, T]], size: int, total: int, *, backward: bool = False
) -> Page[T]:
    """As `page_of`, of rows that come with their numbers; `backward`: in the opposite order."""
    shown = found[:size][::-1] if backward else found[:size]
    more = len(found) > size
    return Page(
        tuple(row for _, row in shown),
        end_cursor=str(shown[-1][0]) if shown else None,
        has_next=True if backward else more,
        total=total,
        start_cursor=str(shown[0][0]) if shown else None,
        has_previous=more if backward else None,
    )
