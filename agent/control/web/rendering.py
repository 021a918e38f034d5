"""Templates rendered to responses, errors as pages, and the static files."""

import functools
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from agent.control.middleware.errors import STATUS, log_and_mask
from agent.control.request_data import PRINCIPAL
from agent.control.web.filters import all_filters, job_url, project_url, queue_url, run_url
from agent.model.errors import LaunchError
from agent.model.phase import TERMINAL

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_TITLES: Final = {
    400: "This request is not valid",
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    409: "Not possible now",
    503: "Not available at the moment",
}
_TYPES: Final = {
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}


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
        paths = (queue_url, job_url, project_url, run_url)
        self._templates.globals.update({path.__name__: path for path in paths}, TERMINAL=TERMINAL)

    def page(
        self,
        template: str,
        /,
        *,
        user: str | None,
        own_entity: str = "",
        path: str = "",
        status: int = 200,
        events_url: str | None = None,
        fragment: bool = False,
        **values: Any,
    ) -> web.Response:
        """A whole page; with `fragment` only its main element, for the script that updates it.

        `user` is shown as signed in, and `own_entity` is what commands mean that name none. `path`
        is the page's own; `events_url` is that of the events that the page follows.
        """
        text = self._templates.get_template(template).render(
            layout="fragment.html" if fragment else "base.html",
            now=datetime.now(UTC),
            user=user,
            section=_section(path),
            entity_flag=lambda entity: "" if entity == own_entity else f" -e {entity}",
            events=events_url,
            **values,
        )
        return web.Response(text=text, status=status, content_type="text/html")


def _section(path: str) -> str:
    """The part of the navigation that a page belongs to; W&B's addresses are of projects."""
    first, _, rest = path.strip("/").partition("/")
    if first not in {"", "launch"}:
        return "projects"
    part = rest.partition("/")[0]
    return part if part in {"projects", "items", "jobs", "agents"} else "queues"


RENDERER: Final = web.AppKey("renderer", Renderer)


def page(request: web.Request, template: str, topics: str, /, **values: Any) -> web.Response:
    """The response to a request for a page, or for its fragment (`?fragment=1`).

    `topics` is the query string of the page's `/launch/events`; empty for a page that is not
    updated.
    """
    return request.app[RENDERER].page(
        template,
        **_caller(request),
        events_url=f"/launch/events?{topics}" if topics else None,
        fragment=request.query.get("fragment") == "1",
        **values,
    )


def _caller(request: web.Request) -> dict[str, Any]:
    principal = request.get(PRINCIPAL)
    if principal is None:
        return {"user": None}
    return {"user": principal.name, "own_entity": principal.default_entity, "path": request.path}


def errors_as_pages(handler: Handler) -> Handler:
    """Answer a handler's errors with pages; unexpected exceptions are logged and masked."""

    @functools.wraps(handler)
    async def wrapped(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except LaunchError as error:
            status = STATUS.get(error.code, 500)
            return _error_page(request, status, error.message, hint=error.hint)
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001 -- no unmasked exception may reach a page
            return _error_page(request, 500, f"{log_and_mask(error, path=request.path)}.")

    return wrapped


async def no_such_page(request: web.Request) -> web.StreamResponse:
    """404 for any other path."""
    return _error_page(request, 404, f"There is no page {request.path}.")


def _error_page(
    request: web.Request, status: int, message: str, *, hint: str | None = None
) -> web.Response:
    signed_out = status == web.HTTPUnauthorized.status_code
    return request.app[RENDERER].page(
        "error.html",
        **_caller(request),
        status=status,
        title=_TITLES.get(status, "Something went wrong"),
        message=message,
        hint=hint,
        link="/login" if signed_out else "/launch",
        link_text="Sign in" if signed_out else "See all queues",
    )


class StaticFiles:
    """Answers `/launch/static/{name}`; the files are few and small, and kept in memory."""

    def __init__(self) -> None:
        folder = files("agent.control.web") / "static"
        bodies = {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}
        #: Bytes and entity tag by name.
        self._files = {
            name: (body, hashlib.sha256(body).hexdigest()[:16]) for name, body in bodies.items()
        }

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The file, or 304 when the browser has it already."""
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound
        body, etag = self._files[name]
        headers = {"Cache-Control": "no-cache", "ETag": f'"{etag}"'}
        if any(tag.value == etag for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        content_type = _TYPES[name.rpartition(".")[2]]
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)
