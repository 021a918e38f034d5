"""Jobs and their versions, as an extension of W&B's schema."""

from typing import Final

from ariadne import ObjectType

from agent.control.graphql.context import (
    Args,
    Context,
    Info,
    RootResolvers,
    found_or_none,
    nested,
)
from agent.control.services.jobs import JobRecord


async def _set_creation(context: Context, args: Args) -> bool:
    place, enabled = (args.get("entity_name"), args["project_name"]), bool(args["enabled"])
    await context.plane.run_jobs.set_of_project(context.principal, *place, enabled=enabled)
    return enabled


async def _set_own_creation(context: Context, args: Args) -> bool:
    enabled = bool(args["enabled"])
    await context.plane.run_jobs.set_of_user(context.principal, enabled=enabled)
    return enabled


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
MUTATIONS: Final[RootResolvers] = {
    "setLaunchJobCreation": _set_creation,
    "setOwnLaunchJobCreation": _set_own_creation,
}
TYPES: Final = (_JOB, _VERSION)
