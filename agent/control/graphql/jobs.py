"""Jobs and their versions, as an extension of W&B's schema."""

from typing import Any, Final

from ariadne import ObjectType

from agent.control.graphql.context import Args, Context, Info, nested
from agent.control.services.jobs import JobRecord, JobVersion
from agent.model.errors import NotFoundError
from agent.model.spec import Json


async def _jobs(context: Context, args: Args) -> tuple[JobRecord, ...]:
    return await context.plane.jobs.list(
        context.principal, args.get("entity_name"), args["project_name"]
    )


async def _version(context: Context, args: Args) -> JobVersion | None:
    try:
        return await context.plane.jobs.get(context.principal, args["reference"])
    except NotFoundError:
        return None


_JOB: Final = ObjectType("LaunchJob")
_VERSION: Final = ObjectType("LaunchJobVersion")
for _field, _attribute in {
    "id": "id",
    "name": "name",
    "entityName": "entity",
    "projectName": "project",
    "description": "description",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
}.items():

    def _of_collection(job: JobRecord, _info: Info, *, attribute: str = _attribute) -> Any:
        return getattr(job.collection, attribute)

    _JOB.set_field(_field, _of_collection)
for _field, _attribute in {
    "id": "id",
    "version": "version",
    "aliases": "aliases",
    "createdAt": "created_at",
    "digest": "digest",
    "jobFile": "job_file",
    "problem": "job_problem",
}.items():

    def _of_artifact(version: JobVersion, _info: Info, *, attribute: str = _attribute) -> Any:
        return getattr(version.artifact, attribute)

    _VERSION.set_field(_field, _of_artifact)


@_JOB.field("itemCount")
async def _item_count(job: JobRecord, info: Info) -> int:
    context = nested(info)
    return await context.plane.jobs.item_count(context.principal, job.collection)


QUERIES: Final = {"launchJobs": _jobs, "launchJobVersion": _version}
MUTATIONS: Final[dict[str, Json]] = {}
TYPES: Final = (_JOB, _VERSION)
