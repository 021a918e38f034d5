"""The pages of jobs: lists, and one job with its versions, its files and the launch form."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from agent.control.auth.policy import Action, Policy, Principal
from agent.control.bodies import read_form
from agent.control.files.signed_urls import SignedUrls
from agent.control.request_data import CONFIG, PLANE, principal_of
from agent.control.services.assembly import Services
from agent.control.services.jobs import JobRecord, JobVersion
from agent.control.services.paging import Page
from agent.control.store.artifact_files import EntryRecord
from agent.control.store.artifacts import ArtifactRecord
from agent.control.store.items import ItemRecord
from agent.control.web import job_form
from agent.control.web.filters import job_url, source_word
from agent.control.web.item_list import PAGE, page_links
from agent.control.web.rendering import page
from agent.model.errors import NotFoundError
from agent.model.job.names import JobReference, no_such_version

#: Files of an artifact that a page lists.
_FILES: Final = 100
#: Projects of an entity that a page lists.
_PROJECTS: Final = 500
_UNPROCESSABLE: Final = 422
#: Keys of a job file's source → names on the page, in this order.
_NAMES: Final = {
    "remote": "Repository",
    "commit": "Commit",
    "submodules": "Submodules",
    "lfs": "Git LFS",
    "artifact": "Code artifact",
    "image": "Image",
    "entrypoint": "Entry point",
    "args": "Arguments",
    "build_context": "Build context",
    "dockerfile": "Dockerfile",
    "base_image": "Base image",
    "notebook": "Notebook",
}
_UNSET: Final[tuple[object, ...]] = (None, "", [], False)


@dataclass(frozen=True, slots=True)
class ProjectJobs:
    """A project and its jobs."""

    entity: str
    project: str
    jobs: tuple[JobRecord, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """A job, the version that the page shows, items of any version, and the latest of them."""

    versions: tuple[JobVersion, ...]
    version: JobVersion
    items: Page[ItemRecord]
    last_item: ItemRecord | None


@dataclass(frozen=True, slots=True)
class Files:
    """The first files of an artifact, each with its URL if its bytes are stored here."""

    rows: tuple[tuple[EntryRecord, str | None], ...]
    #: The number of further files.
    more: int


async def all_jobs(request: web.Request) -> web.StreamResponse:
    """Jobs of all projects, of all entities or of one."""
    plane, principal = request.app[PLANE], principal_of(request)
    entities = [entity.name for entity in await plane.accounts.entities(principal)]
    chosen = request.query.get("entity") or None
    if chosen:
        await plane.accounts.entity(principal, chosen)
    names = [chosen] if chosen else entities
    projects = [each for name in names for each in await _projects(plane, principal, name)]
    return _list(request, chosen, project=None, entities=entities, projects=projects)


async def project_jobs(request: web.Request) -> web.StreamResponse:
    """Jobs of one project."""
    plane, principal = request.app[PLANE], principal_of(request)
    entity, project = request.match_info["entity"], request.match_info["project"]
    found = by_name(await plane.jobs.list(principal, entity, project))
    if not found and await plane.projects.get(principal, entity, project) is None:
        raise NotFoundError(f"There is no project '{project}' in '{entity}'.")
    projects = [ProjectJobs(entity, project, found)] if found else []
    return _list(request, entity, project=project, entities=[], projects=projects)


async def wandb_jobs(request: web.Request) -> web.StreamResponse:
    """Redirect from the URL that W&B's clients print for a project's jobs."""
    names = request.match_info
    raise web.HTTPSeeOther(job_url(names["entity"], names["project"]))


async def _projects(plane: Services, principal: Principal, entity: str) -> list[ProjectJobs]:
    found = await plane.projects.list(principal, entity, after=None, first=_PROJECTS)
    projects = [
        ProjectJobs(entity, row.name, by_name(await plane.jobs.list(principal, entity, row.name)))
        for row in found.rows
    ]
    return [each for each in projects if each.jobs]


def by_name(jobs: Iterable[JobRecord]) -> tuple[JobRecord, ...]:
    """Jobs sorted by name, regardless of capital letters."""
    named = sorted(jobs, key=lambda job: (job.collection.name.casefold(), job.collection.name))
    return tuple(named)


def _list(request: web.Request, entity: str | None, **values: Any) -> web.Response:
    topic = urlencode({"entity": entity} if entity else {"heartbeats": "1"})
    return page(request, "jobs.html", topic, entity=entity, **values)


async def job(request: web.Request) -> web.StreamResponse:
    """One job: a version of it, its files, and the form that launches it."""
    plane, principal = request.app[PLANE], principal_of(request)
    shown = await _shown(request, plane, principal)
    form = None
    entity = shown.version.artifact.collection.entity
    # Offered to those who may submit; the service decides.
    if source_word(shown.version) and Policy().allows(principal, entity, Action.SUBMIT):
        form = await _prefilled_form(plane, principal, shown, await _chosen_item(request))
    return await _job(request, shown, form)


async def launch(request: web.Request) -> web.StreamResponse:
    """Submit the version as the form says; shows the form with its errors when that fails."""
    plane, principal = request.app[PLANE], principal_of(request)
    shown = await _shown(request, plane, principal)
    data = await read_form(request)
    sent = job_form.Sent({key: data.getall(key) for key in data})
    form = await _prefilled_form(plane, principal, shown)
    outcome = await job_form.submit(plane, principal, shown.version, form, sent)
    if isinstance(outcome, ItemRecord):
        raise web.HTTPSeeOther(f"/launch/items/{outcome.id}")
    return await _job(request, shown, outcome, status=_UNPROCESSABLE)


async def _shown(request: web.Request, plane: Services, principal: Principal) -> Shown:
    info = request.match_info
    names = info["entity"], info["project"], info["name"]
    versions = await plane.jobs.versions(principal, *names)
    wanted = request.query.get("version") or "latest"
    version = _version(versions, wanted)
    if version is None:
        known = [f"v{each.artifact.version}" for each in versions]
        raise no_such_version(JobReference(*names, wanted), known)
    place = {"after": request.query.get("after"), "before": request.query.get("before")}
    job = version.artifact.collection
    found = await plane.items.of_job(principal, job, first=PAGE, **place)
    newest = found if not any(place.values()) else await plane.items.of_job(principal, job, first=1)
    return Shown(versions, version, found, next(iter(newest.rows), None))


def _version(versions: tuple[JobVersion, ...], wanted: str) -> JobVersion | None:
    """By number or alias; if no version has the alias `latest`, it is the newest."""
    for each in versions:
        if wanted == f"v{each.artifact.version}" or wanted in each.artifact.aliases:
            return each
    return next(iter(versions), None) if wanted == "latest" else None


async def _chosen_item(request: web.Request) -> ItemRecord | None:
    """The item to launch again, `?item=ID`, if the caller may read it."""
    wanted = request.query.get("item")
    if wanted:
        with suppress(NotFoundError):
            return await request.app[PLANE].items.get(principal_of(request), wanted)
    return None


async def _prefilled_form(
    plane: Services, principal: Principal, shown: Shown, like: ItemRecord | None = None
) -> job_form.Form:
    """The form, filled as for `like`, else for the job's latest item."""
    entity = shown.version.artifact.collection.entity
    queues = await plane.queues.list(principal, entity)
    return job_form.prefilled_form(shown.version, queues, like or shown.last_item)


async def _job(
    request: web.Request, shown: Shown, form: job_form.Form | None, status: int = 200
) -> web.Response:
    artifact, code = shown.version.artifact, shown.version.code
    collection = artifact.collection
    code_files = await artifact_files(request, code) if code else None
    return page(
        request,
        "job.html",
        urlencode({"entity": collection.entity}),
        status=status,
        job=collection,
        version=shown.version,
        versions=shown.versions,
        described=described(shown.version),
        files=await artifact_files(request, artifact),
        code_files=code_files if code_files and code_files.rows else None,
        items=shown.items.rows,
        total=shown.items.total,
        form=form,
        **_links(request, shown.items),
    )


def _links(request: web.Request, found: Page[ItemRecord]) -> dict[str, str | None]:
    kept = {"version": request.query["version"]} if "version" in request.query else {}

    def link(**place: str | None) -> str:
        return f"?{urlencode(kept | place)}#runs"

    return page_links(request.query, found, link)


async def artifact_files(request: web.Request, artifact: ArtifactRecord) -> Files:
    """The files to list; their URLs expire."""
    plane, config = request.app[PLANE], request.app[CONFIG]
    found = await plane.artifacts.entries(principal_of(request), artifact, first=_FILES)
    signed_urls = SignedUrls(plane.keys, "", config.signed_url_lifetime)
    entity = artifact.collection.entity
    rows = tuple(
        (each, signed_urls.content("read", entity, each.md5, each.path) if each.md5 else None)
        for each in found.rows
    )
    return Files(rows, found.total - len(rows))


def described(version: JobVersion) -> tuple[tuple[str, str], ...]:
    """What `launch job describe` prints about a version, name and value."""
    job_file = version.artifact.job_file or {}
    source = job_file.get("source")
    known = source if isinstance(source, dict) else {}
    if version.code is not None:
        # The job file has only the artifact's id.
        known = known | {"artifact": version.summary}
    git = known.get("git")
    values = (git if isinstance(git, dict) else {}) | known
    services = job_file.get("services")
    rows = (
        ("Source", source_word(version)),
        *((_NAMES[key], _text(values[key])) for key in _NAMES if values.get(key) not in _UNSET),
        ("Python", str(job_file.get("runtime") or "")),
        ("Services", _text(services) if services else ""),
    )
    return tuple((name, value) for name, value in rows if value)


def _text(value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, list):
        return " ".join(str(each) for each in value)
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
