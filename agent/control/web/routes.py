"""The pages' addresses, in one place."""

from typing import Final

from aiohttp import web

from agent.control.web import events, item_page, job_pages, pages
from agent.control.web.errors import Handler, as_page, no_such_page
from agent.control.web.keys import RENDERER
from agent.control.web.render import Renderer
from agent.control.web.sign_in import sign_in
from agent.control.web.static_files import StaticFiles

_PAGES: Final[tuple[tuple[str, Handler], ...]] = (
    ("/", pages.home),
    ("/login", sign_in),
    ("/launch", pages.launch),
    ("/launch/events", events.events),
    ("/launch/queues/{entity}/{queue}", pages.queue),
    ("/launch/agents/{id}", pages.agent),
    ("/launch/items/{id}", item_page.item),
    ("/launch/jobs", job_pages.all_jobs),
    ("/launch/jobs/{entity}/{project}", job_pages.jobs),
    ("/launch/jobs/{entity}/{project}/{name}", job_pages.job),
)
#: What a person may do with an item or a job.
_ACTIONS: Final[tuple[tuple[str, Handler], ...]] = (
    ("/launch/items/{id}/stop", item_page.stop),
    ("/launch/items/{id}/retry", item_page.retry),
    ("/launch/jobs/{entity}/{project}/{name}", job_pages.launch),
)


def add_web_routes(app: web.Application) -> None:
    """Add pages, their events and their static files.

    Call it after the other routes: its last ones take whatever is left below `/launch`.
    """
    app[RENDERER] = Renderer()
    app.router.add_get("/launch/static/{name}", StaticFiles().serve)
    for path, handler in _PAGES:
        app.router.add_get(path, as_page(handler))
    for path, handler in _ACTIONS:
        app.router.add_post(path, as_page(handler))
    app.router.add_get("/launch/{entity}/{queue}", as_page(pages.short_queue))
    app.router.add_get("/launch/{rest:.*}", as_page(no_such_page))
    app.router.add_get("/{entity}/{project}/jobs", as_page(job_pages.wandb_jobs))
