"""Templates into answers.

The headers that keep a page from running what is not ours are `agent.control.http.outer`'s,
on every answer alike.
"""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from agent.control.web.filters import all_filters


class Renderer:
    """The compiled templates of one app."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("agent.control.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(all_filters())

    def page(
        self,
        template: str,
        /,
        *,
        user: str | None,
        status: int = 200,
        events: str | None = None,
        fragment: bool = False,
        **values: Any,
    ) -> web.Response:
        """A whole page, or with `fragment` only what is inside its frame."""
        text = self._templates.get_template(template).render(
            layout="fragment.html" if fragment else "base.html",
            now=datetime.now(UTC),
            user=user,
            events=events,
            **values,
        )
        return web.Response(text=text, status=status, content_type="text/html")
