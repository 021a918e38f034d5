"""Projects, with their runs and queues, and W&B's default resource configs."""

from typing import Any, Final

from ariadne import ObjectType

from agent.control.graphql.context import (
    Args,
    Context,
    Info,
    as_object,
    connection,
    constant,
    context_of,
    found_or_none,
    nested,
    page_args,
)
from agent.control.services.accounts import QUEUE_PROJECT
from agent.control.services.runs import UNNAMED_PROJECT
from agent.control.store.accounts import EntityRecord
from agent.control.store.projects import ProjectRecord, ResourceConfigRecord
from agent.control.store.queues import QueueRecord
from agent.control.store.runs import RunRecord
from agent.model.spec import Json


async def _project(context: Context, args: Args) -> ProjectRecord | None:
    name, entity = args.get("name") or UNNAMED_PROJECT, args.get("entity_name")
    return await context.plane.projects.get(context.principal, entity, name)


async def _models(context: Context, args: Args) -> Json | None:
    entity = args.get("entity_name")
    page = await found_or_none(
        context.plane.projects.list(context.principal, entity, **page_args(args))
    )
    return None if page is None else connection(page)


async def _upsert_model(context: Context, args: Args) -> Json:
    name, entity = args.get("name") or UNNAMED_PROJECT, args.get("entity_name")
    record, inserted = await context.plane.projects.upsert(context.principal, entity, name)
    return {"project": record, "model": record, "inserted": inserted}


async def _create_resource_config(context: Context, args: Args) -> Json:
    record = await context.plane.projects.create_resource_config(
        context.principal,
        args["entity_name"],
        args["resource"],
        as_object(args["config"], "config"),
        args.get("template_variables"),
    )
    return {"default_resource_config_id": record.id, "success": True}


def template_variables(variables: dict[str, Json]) -> list[Json]:
    """A template's variables as W&B's list; schemas keep the order of their keys."""
    return [
        {
            "name": name,
            "schema": described.get("schema", {}),
            "description": described.get("description"),
        }
        for name, described in variables.items()
    ]


_PROJECT: Final = ObjectType("Project")
_ENTITY: Final = ObjectType("Entity")
_CONFIG: Final = ObjectType("DefaultResourceConfig")
_CONFIG.set_field(
    "templateVariables", lambda config, _info: template_variables(config.template_variables)
)
_PROJECT.set_alias("entityName", "entity")
_PROJECT.set_field("access", constant("PRIVATE"))
_PROJECT.set_field("isBenchmark", constant(False))
_PROJECT.set_field("readOnly", constant(False))


@_PROJECT.field("id")
@_PROJECT.field("internalId")
def _id(project: ProjectRecord, _info: Info) -> str:
    return str(project.number)


@_PROJECT.field("entity")
async def _entity(project: ProjectRecord, info: Info) -> EntityRecord:
    context, name = context_of(info), project.entity
    return await context.once(
        ("entity", name), lambda: context.plane.accounts.entity(context.principal, name)
    )


@_PROJECT.field("run")
@_PROJECT.field("bucket")
async def _run(
    project: ProjectRecord, info: Info, *, name: str, **_unused: Any
) -> RunRecord | None:
    context = nested(info)
    return await context.plane.runs.get(context.principal, project.entity, project.name, name)


@_PROJECT.field("runs")
async def _runs(project: ProjectRecord, info: Info, **args: Any) -> Json:
    context = nested(info)
    page = await context.plane.runs.list(
        context.principal,
        project.entity,
        project.name,
        filters=args.get("filters"),
        order=args.get("order"),
        **page_args(args),
    )
    return connection(page)


@_PROJECT.field("runCount")
async def _run_count(project: ProjectRecord, info: Info, *, filters: Any = None) -> int:
    context = nested(info)
    place = (project.entity, project.name)
    return await context.plane.runs.count(context.principal, *place, filters)


@_PROJECT.field("runQueues")
async def _run_queues(project: ProjectRecord, info: Info) -> tuple[QueueRecord, ...]:
    context = nested(info)
    if project.name != QUEUE_PROJECT:
        return ()
    return await context.plane.queues.list(context.principal, project.entity)


@_PROJECT.field("runQueue")
async def _run_queue(project: ProjectRecord, info: Info, *, name: str) -> QueueRecord | None:
    context = nested(info)
    if project.name != QUEUE_PROJECT:
        return None
    return await found_or_none(context.plane.queues.get(context.principal, project.entity, name))


@_ENTITY.field("defaultResourceConfig")
async def _resource_config(
    entity: EntityRecord,
    info: Info,
    *,
    id: str,  # noqa: A002 -- the schema's name
) -> ResourceConfigRecord | None:
    context = nested(info)
    return await context.plane.projects.resource_config(context.principal, entity.name, id)


QUERIES: Final = {"project": _project, "model": _project, "models": _models}
MUTATIONS: Final = {
    "upsertModel": _upsert_model,
    "createDefaultResourceConfig": _create_resource_config,
}
TYPES: Final = (_PROJECT, _ENTITY, _CONFIG)
