"""The URLs of the pages."""

from typing import Final

from aiohttp import web

from agent.control.web import agents, events, items, jobs, queues, sign_in
from agent.control.web.rendering import (
    RENDERER,
    Handler,
    Renderer,
    StaticFiles,
    errors_as_pages,
    no_such_page,
)

_PAGES: Final[tuple[tuple[str, Handler], ...]] = (
    ("/", queues.home),
    ("/login", sign_in.sign_in_page),
    ("/launch", queues.overview),
    ("/launch/events", events.events),
    ("/launch/queues/{entity}/{queue}", queues.queue),
    ("/launch/agents/{id}", agents.agent),
    ("/launch/items/{id}", items.item),
    ("/launch/jobs", jobs.all_jobs),
    ("/launch/jobs/{entity}/{project}", jobs.project_jobs),
    ("/launch/jobs/{entity}/{project}/{name}", jobs.job),
    # Last ones: they match what no other route below `/launch` does.
    ("/launch/{entity}/{queue}", queues.short_queue),
    ("/launch/{rest:.*}", no_such_page),
    ("/{entity}/{project}/jobs", jobs.wandb_jobs),
)
_FORMS: Final[tuple[tuple[str, Handler], ...]] = (
    ("/launch/items/{id}/stop", items.stop),
    ("/launch/items/{id}/retry", items.retry),
    ("/launch/jobs/{entity}/{project}/{name}", jobs.launch),
)


def add_web_routes(app: web.Application) -> None:
    """Add sign-in, pages, their events and their static files.

    Call it after adding all other routes: one of these matches any path below `/launch`.
    """
    app[RENDERER] = Renderer()
    app.router.add_post("/login", sign_in.sign_in)
    app.router.add_get("/login/link", sign_in.sign_in_by_link, allow_head=False)
    app.router.add_post("/logout", sign_in.sign_out)
    app.router.add_post("/launch/sign-in-links", sign_in.create_link)
    app.router.add_get("/launch/static/{name}", StaticFiles().serve)
    for path, handler in _FORMS:
        app.router.add_post(path, errors_as_pages(handler))
    for path, handler in _PAGES:
        app.router.add_get(path, errors_as_pages(handler))
