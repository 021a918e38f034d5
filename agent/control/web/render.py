"""Templates into answers, with the headers that keep a page from running what is not ours."""

import hashlib
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from agent.control.web.filters import all_filters

STATIC: Final = Path(str(files("agent.control.web") / "static"))
_TEMPLATES: Final = Path(str(files("agent.control.web") / "templates"))

#: Nothing inline, nothing from elsewhere, no frames around it.
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Renderer:
    """The compiled templates of one app."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(all_filters())
        self._version = static_version()

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
            version=self._version,
            **values,
        )
        return web.Response(
            text=text, status=status, content_type="text/html", headers=PAGE_HEADERS
        )


def static_version() -> str:
    """A name for the content of the static files, so that browsers fetch them when it changes."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
