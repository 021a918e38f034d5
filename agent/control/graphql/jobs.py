"""Jobs and their versions, as an extension of W&B's schema."""

from typing import Final

from ariadne import ObjectType

from agent.control.graphql.context import Info, RootResolvers, found_or_none, nested
from agent.control.services.jobs import JobRecord

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


QUERIES: Final[RootResolvers] = {
    "launchJobs": lambda context, args: context.plane.jobs.list(
        context.principal, args.get("entity_name"), args["project_name"]
    ),
    "launchJobVersion": lambda context, args: found_or_none(
        context.plane.jobs.get(context.principal, args["reference"])
    ),
}
MUTATIONS: Final[RootResolvers] = {}
TYPES: Final = (_JOB, _VERSION)
