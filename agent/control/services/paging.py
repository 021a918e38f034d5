"""Long lists, page by page.

A page is asked for with one row more than it has, which tells whether there is another.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from agent.control.store.records import Page
from agent.model.errors import InvalidInputError

Row = TypeVar("Row")

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
    """A cursor of an earlier page.

    Raises:
        InvalidInputError: not one of ours.
    """
    if text is None or text == "":
        return None
    if not text.isdigit():
        raise InvalidInputError(f"`after` is '{text}', which is no cursor of an earlier page.")
    return int(text)


def page_of(
    found: Sequence[Row], size: int, total: int, cursor_of: Callable[[Row], object]
) -> Page[Row]:
    """One page of what was found; `cursor_of` tells where a row stands in the list."""
    rows = tuple(found[:size])
    last = str(cursor_of(rows[-1])) if rows else None
    return Page(rows, last, len(found) > size, total)


def numbered_page(found: Sequence[tuple[int, Row]], size: int, total: int) -> Page[Row]:
    """As `page_of`, of rows that come with their numbers."""
    page = page_of(found, size, total, lambda pair: pair[0])
    return Page(tuple(row for _, row in page.rows), page.end_cursor, page.has_next, page.total)
