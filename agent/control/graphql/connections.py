"""Lists in W&B's shape: edges, cursors, page information."""

from collections.abc import Iterable
from typing import Any, TypeVar

from agent.control.store.records import Page

T = TypeVar("T")


def connection(page: Page[T]) -> dict[str, Any]:
    """A page of a longer list; every edge carries the cursor to go on after the page."""
    return {
        "edges": [{"node": row, "cursor": page.end_cursor or ""} for row in page.rows],
        "page_info": {"end_cursor": page.end_cursor, "has_next_page": page.has_next},
        "total_count": page.total,
    }


def whole(rows: Iterable[Any]) -> dict[str, Any]:
    """A list that fits on one page."""
    return {
        "edges": [{"node": row, "cursor": ""} for row in rows],
        "page_info": {"end_cursor": None, "has_next_page": False},
    }
