"""Lists in W&B's shape: edges, cursors, page information."""

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from graphql import GraphQLError

from agent.control.services.paging import Page

T = TypeVar("T")

MAX_PAGE: Final = 5000
_DEFAULT_PAGE: Final = 100


def page_size(first: int | None) -> int:
    """The size of a page from the argument `first`.

    Raises:
        GraphQLError: below 0 or above the limit.
    """
    if first is None:
        return _DEFAULT_PAGE
    if not 0 <= first <= MAX_PAGE:
        message = f"`first: {first}`: a page has between 0 and {MAX_PAGE} entries."
        raise GraphQLError(message, extensions={"code": "INVALID_INPUT"})
    return first


def connection(page: Page[T]) -> dict[str, Any]:
    """One page of a longer list; every edge has the cursor of the next page."""
    return {
        "edges": [{"node": row, "cursor": page.end_cursor or ""} for row in page.rows],
        "page_info": {"end_cursor": page.end_cursor, "has_next_page": page.has_next},
        "total_count": page.total,
    }


def whole(rows: Iterable[Any]) -> dict[str, Any]:
    """A list that is always given as one page."""
    return {
        "edges": [{"node": row, "cursor": ""} for row in rows],
        "page_info": {"end_cursor": None, "has_next_page": False},
    }
