"""The jobs of a project, and one job with its versions, files and the form to launch it."""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from agent.control.auth.policy import Action, Policy, Principal
from agent.control.files.links import Links
from agent.control.keys import CONFIG, PLANE, principal_of
from agent.control.services.plane import Plane
from agent.control.store.artifact_records import ArtifactRecord, JobRecord, JobVersion
from agent.control.store.records import ItemRecord
from agent.control.web import job_launch
from agent.control.web.job_form import Sent
from agent.control.web.job_present import (
    Files,
    by_name,
    described,
    job_address,
    listed,
    source_word,
)
from agent.control.web.pages import show
from agent.model.errors import NotFoundError
from agent.model.job.reference import JobReference, no_such_version

_FILES: Final = 100
#: Projects of one page.
_PROJECTS: Final = 500
_UNPROCESSABLE: Final = 422


@dataclass(frozen=True, slots=True)
class Place:
    """A project that has jobs."""

    entity: str
    project: str
    jobs: tuple[JobRecord, ...]

    @property
    def address(self) -> str:
        """Its page."""
        return job_address(self.entity, self.project)


@dataclass(frozen=True, slots=True)
class Shown:
    """A job, the version of it that is looked at, and what was launched last of any."""

    versions: tuple[JobVersion, ...]
    version: JobVersion
    last_item: ItemRecord | None

    @property
    def address(self) -> str:
        """The job's page."""
        collection = self.version.artifact.collection
        return job_address(collection.entity, collection.project, collection.name)


async def all_jobs(request: web.Request) -> web.StreamResponse:
    """Jobs of all projects, of all entities or of one."""
    plane, principal = request.app[PLANE], principal_of(request)
    entities = [entity.name for entity in await plane.accounts.entities(principal)]
    chosen = request.query.get("entity") or None
    if chosen:
        await plane.accounts.entity(principal, chosen)
    names = [chosen] if chosen else entities
    places = [place for name in names for place in await _places(plane, principal, name)]
    return _jobs(request, entity=chosen, project=None, entities=entities, places=places)


async def jobs(request: web.Request) -> web.StreamResponse:
    """Jobs of one project."""
    plane, principal = request.app[PLANE], principal_of(request)
    entity, project = request.match_info["entity"], request.match_info["project"]
    found = by_name(await plane.jobs.list(principal, entity, project))
    if not found and await plane.projects.get(principal, entity, project) is None:
        raise NotFoundError(f"There is no project '{project}' in '{entity}'.")
    places = [Place(entity, project, found)] if found else []
    return _jobs(request, entity=entity, project=project, entities=[], places=places)


async def wandb_jobs(request: web.Request) -> web.StreamResponse:
    """The address that W&B's clients print for a project's jobs."""
    place = request.match_info
    raise web.HTTPSeeOther(job_address(place["entity"], place["project"]))


async def _places(plane: Plane, principal: Principal, entity: str) -> list[Place]:
    page = await plane.projects.list(principal, entity, after=None, first=_PROJECTS)
    found = [
        Place(entity, row.name, by_name(await plane.jobs.list(principal, entity, row.name)))
        for row in page.rows
    ]
    return [place for place in found if place.jobs]


def _jobs(request: web.Request, entity: str | None, **values: Any) -> web.Response:
    topic = urlencode({"entity": entity} if entity else {"beat": "1"})
    return show(request, "jobs.html", topic, entity=entity, **values)


async def job(request: web.Request) -> web.StreamResponse:
    """One job: a version of it, its files, and the form that launches it."""
    plane, principal = request.app[PLANE], principal_of(request)
    shown = await _shown(request, plane, principal)
    form = await _form(plane, principal, shown)
    return await _job(request, shown, form)


async def launch(request: web.Request) -> web.StreamResponse:
    """Launch the version as the form asks; a form that asks for what cannot be comes back."""
    plane, principal = request.app[PLANE], principal_of(request)
    shown = await _shown(request, plane, principal)
    data = await request.post()
    sent = Sent({key: [str(each) for each in data.getall(key)] for key in data})
    queues = await _queues(plane, principal, shown)
    form = job_launch.empty_form(shown.version, queues, shown.last_item)
    outcome = await job_launch.launch(plane, principal, shown.version, form, sent)
    if isinstance(outcome, ItemRecord):
        raise web.HTTPSeeOther(f"/launch/items/{outcome.id}")
    return await _job(request, shown, outcome, status=_UNPROCESSABLE)


async def _shown(request: web.Request, plane: Plane, principal: Principal) -> Shown:
    place = request.match_info
    names = place["entity"], place["project"], place["name"]
    versions = await plane.jobs.versions(principal, *names)
    records = await plane.jobs.list(principal, *names[:2])
    last = next((each.last_item for each in records if each.collection.name == names[2]), None)
    chosen = request.query.get("version") or "latest"
    version = _version(versions, chosen)
    if version is None:
        known = [f"v{each.artifact.version}" for each in versions]
        raise no_such_version(JobReference(*names, chosen), known)
    return Shown(versions, version, last)


def _version(versions: tuple[JobVersion, ...], chosen: str) -> JobVersion | None:
    """By number or alias; without an alias `latest` the newest is the latest."""
    for each in versions:
        if chosen == f"v{each.artifact.version}" or chosen in each.artifact.aliases:
            return each
    return next(iter(versions), None) if chosen == "latest" else None


async def _form(plane: Plane, principal: Principal, shown: Shown) -> job_launch.Form | None:
    """The form, for whom it is worth offering; the services have the last word."""
    version, entity = shown.version, shown.version.artifact.collection.entity
    if not source_word(version) or not Policy().allows(principal, entity, Action.SUBMIT):
        return None
    queues = await _queues(plane, principal, shown)
    return job_launch.empty_form(version, queues, shown.last_item)


async def _queues(plane: Plane, principal: Principal, shown: Shown) -> tuple[str, ...]:
    entity = shown.version.artifact.collection.entity
    return tuple(queue.name for queue in await plane.queues.list(principal, entity))


async def _files(request: web.Request, artifact: ArtifactRecord) -> Files:
    plane, config = request.app[PLANE], request.app[CONFIG]
    page = await plane.artifacts.entries(principal_of(request), artifact, first=_FILES)
    return listed(artifact, page, Links(plane.signing_key, "", config.link_lifetime))


async def _job(
    request: web.Request, shown: Shown, form: job_launch.Form | None, status: int = 200
) -> web.Response:
    artifact, code = shown.version.artifact, shown.version.code
    files = await _files(request, artifact)
    of_code = await _files(request, code) if code else None
    return show(
        request,
        "job.html",
        urlencode({"entity": artifact.collection.entity}),
        status=status,
        job=artifact.collection,
        job_path=shown.address,
        project_path=job_address(artifact.collection.entity, artifact.collection.project),
        version=shown.version,
        versions=shown.versions,
        described=described(shown.version),
        files=files,
        code_files=of_code if of_code and of_code.rows else None,
        last_item=shown.last_item,
        form=form,
    )
