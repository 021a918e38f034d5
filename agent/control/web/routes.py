"""The routes of the web pages."""

from typing import Final

from aiohttp import web

from agent.control.web import (
    agents,
    audit,
    charts,
    console,
    events,
    item_list,
    items,
    jobs,
    projects,
    queue_form,
    queues,
    runs,
    sign_in,
)
from agent.control.web.rendering import StaticFiles, errors_as_pages, no_such_page

#: Parts of a project in W&B's addresses that have no page of their own here.
_WANDB_VIEWS: Final = ("overview", "runs", "sweeps", "table", "workspace")


def add_web_routes(app: web.Application) -> None:
    """Add all routes of the web pages; each needs its policy in `control/middleware/access.py`."""
    app.router.add_post("/login", sign_in.sign_in)
    app.router.add_get("/login/link", sign_in.sign_in_by_link, allow_head=False)
    app.router.add_post("/logout", sign_in.sign_out)
    app.router.add_post("/launch/sign-in-links", sign_in.create_link)
    app.router.add_get("/launch/static/{name}", StaticFiles().serve)
    forms = {
        "/launch/agents/{id}/drain": agents.drain,
        "/launch/agents/{id}/stop": agents.stop,
        "/launch/items/{id}/stop": items.stop,
        "/launch/items/{id}/retry": items.retry,
        "/launch/queues/{entity}": queue_form.send_new,
        "/launch/queues/{entity}/{queue}/edit": queue_form.send_edit,
        "/launch/queues/{entity}/{queue}/pause": queue_form.pause,
        "/launch/queues/{entity}/{queue}/delete": queue_form.delete,
        "/launch/runs/{entity}/{project}/{run}/stop": runs.stop,
        "/launch/jobs/{entity}/{project}/{name}": jobs.launch,
    }
    for path, form in forms.items():
        app.router.add_post(path, errors_as_pages(form))
    pages = {
        "/": queues.home,
        "/login": sign_in.sign_in_page,
        "/launch": queues.overview,
        "/launch/audit": audit.audit,
        "/launch/events": events.events,
        "/launch/queues/{entity}": queue_form.show_new,
        "/launch/queues/{entity}/{queue}": queues.queue,
        "/launch/queues/{entity}/{queue}/edit": queue_form.show_edit,
        "/launch/agents": agents.all_agents,
        "/launch/agents/{id}": agents.agent,
        "/launch/items": item_list.all_items,
        "/launch/items/{id}": items.item,
        "/launch/jobs": jobs.all_jobs,
        "/launch/jobs/{entity}/{project}": jobs.project_jobs,
        "/launch/jobs/{entity}/{project}/{name}": jobs.job,
        "/launch/projects": projects.all_projects,
        "/launch/charts/{entity}/{project}": charts.series,
        "/launch/runs/{entity}/{project}/{run}/console": console.lines,
        "/launch/runs/{entity}/{project}/{run}/console.txt": console.download,
        "/launch/runs/{entity}/{project}/{run}/files/{name:.+}": runs.file,
        # Last ones: they match what no other route below `/launch` does.
        "/launch/{entity}/{queue}": queues.short_queue,
        "/launch/{rest:.*}": no_such_page,
        # Addresses that W&B's clients print and its users know.
        "/authorize": sign_in.about_keys,
        "/settings": sign_in.about_keys,
        "/{entity}": projects.all_projects,
        "/{entity}/{project}": projects.project,
        **{f"/{{entity}}/{{project}}/{view}": projects.wandb_view for view in _WANDB_VIEWS},
        "/{entity}/{project}/jobs": jobs.wandb_jobs,
        "/{entity}/{project}/sweeps/{sweep}": projects.wandb_sweep,
        "/{entity}/{project}/runs/{run}": runs.run,
        "/{entity}/{project}/runs/{run}/{tab:.*}": runs.run,
    }
    for path, page in pages.items():
        app.router.add_get(path, errors_as_pages(page))
