"""Jobs and their versions, as an extension of W&B's schema."""

from typing import Final

from ariadne import ObjectType

from agent.control.graphql.context import Args, Context, Info, found_or_none, nested
from agent.control.services.jobs import JobRecord, JobVersion
from agent.model.spec import Json


async def _jobs(context: Context, args: Args) -> tuple[JobRecord, ...]:
    return await context.plane.jobs.list(
        context.principal, args.get("entity_name"), args["project_name"]
    )


async def _version(context: Context, args: Args) -> JobVersion | None:
    return await found_or_none(context.plane.jobs.get(context.principal, args["reference"]))


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
    _JOB.set_alias(_field, f"collection.{_attribute}")
for _field, _attribute in {
    "id": "id",
    "version": "version",
    "aliases": "aliases",
    "createdAt": "created_at",
    "digest": "digest",
    "jobFile": "job_file",
    "problem": "job_problem",
}.items():
    _VERSION.set_alias(_field, f"artifact.{_attribute}")


@_JOB.field("itemCount")
async def _item_count(job: JobRecord, info: Info) -> int:
    context = nested(info)
    return await context.plane.jobs.item_count(context.principal, job.collection)


QUERIES: Final = {"launchJobs": _jobs, "launchJobVersion": _version}
MUTATIONS: Final[dict[str, Json]] = {}
TYPES: Final = (_JOB, _VERSION)
