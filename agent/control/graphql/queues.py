"""Queues: W&B's mutations and ours; how a queue looks on the wire."""

from typing import Any, Final

from ariadne import ObjectType

from agent.control.graphql.context import (
    Args,
    Context,
    Info,
    RootResolvers,
    as_object,
    connection,
    found_or_none,
    nested,
    object_or_none,
    page_args,
)
from agent.control.graphql.projects import template_variables
from agent.control.services.spec_layers import resource_warnings
from agent.control.store.agents import AgentRecord
from agent.control.store.item_lists import ItemFilter
from agent.control.store.items import ItemRecord
from agent.control.store.queues import QueueRecord
from agent.model.spec import Json


async def _create(context: Context, args: Args) -> Json:
    record = await context.plane.queues.create_wandb(
        context.principal,
        args["entity_name"],
        args["queue_name"],
        access=args["access"],
        prioritization=args.get("prioritization_mode"),
        resource_config_id=args.get("default_resource_config_id"),
    )
    return {"success": True, "queue_id": record.id}


async def _upsert(context: Context, args: Args) -> Json:
    links = args.get("external_links")
    problems = await context.plane.queues.upsert_wandb(
        context.principal,
        args["entity_name"],
        args["queue_name"],
        resource=args["resource_type"],
        config=as_object(args["resource_config"], "resourceConfig"),
        template_variables=args.get("template_variables"),
        prioritization=args.get("prioritization_mode"),
        external_links=object_or_none(links, "externalLinks"),
    )
    return {"success": True, "config_schema_validation_errors": list(problems)}


async def _delete_ids(context: Context, args: Args) -> Json:
    await context.plane.queues.delete_ids(context.principal, args["queue_ids"])
    return {"success": True}


async def _save(context: Context, args: Args) -> QueueRecord:
    config, links = args.get("config"), args.get("external_links")
    return await context.plane.queues.save(
        context.principal,
        args.get("entity_name"),
        args["name"],
        resource=args["resource"],
        config=object_or_none(config, "config"),
        template_variables=args.get("template_variables"),
        prioritization=args.get("prioritization_mode"),
        external_links=object_or_none(links, "externalLinks"),
        mode=args.get("mode") or "EITHER",
    )


async def _delete(context: Context, args: Args) -> bool:
    force = args.get("force") or False
    entity, name = args.get("entity_name"), args["name"]
    await context.plane.queues.delete(context.principal, entity, name, force=force)
    return True


async def _pause(context: Context, args: Args) -> QueueRecord:
    entity, name = args.get("entity_name"), args["name"]
    return await context.plane.queues.pause(context.principal, entity, name, paused=args["paused"])


_QUEUE: Final = ObjectType("RunQueue")
_QUEUE.set_alias("entityName", "entity")
_QUEUE.set_alias("prioritizationMode", "prioritization")
# Clients read a queue's template by this id only: that of the queue stands for its own.
_QUEUE.set_field(
    "defaultResourceConfigID", lambda queue, _info: queue.resource_config_id or queue.id
)
# Empty until an administrator or the first agent has chosen one.
_QUEUE.set_field("resource", lambda queue, _info: queue.resource or "")
_QUEUE.set_field("warnings", lambda queue, _info: resource_warnings(queue.resource))
_QUEUE.set_field(
    "templateVariables", lambda queue, _info: template_variables(queue.template_variables)
)


@_QUEUE.field("counts")
async def _counts(queue: QueueRecord, info: Info) -> list[Json]:
    context = nested(info)
    counts = await context.plane.queues.counts(context.principal, [queue.id])
    phases = counts.get(queue.id, {})
    return [{"phase": phase.value, "count": count} for phase, count in phases.items()]


@_QUEUE.field("agents")
async def _agents(queue: QueueRecord, info: Info) -> tuple[AgentRecord, ...]:
    context = nested(info)
    return await context.plane.agents.list(context.principal, queue.entity, queue_id=queue.id)


@_QUEUE.field("runQueueItems")
async def _items(queue: QueueRecord, info: Info, **args: Any) -> Json:
    context = nested(info)
    page = await context.plane.items.list(
        context.principal,
        queue.entity,
        narrow=ItemFilter(queue_id=queue.id),
        **page_args(args),
    )
    return connection(page)


@_QUEUE.field("runQueueItem")
async def _item(
    queue: QueueRecord,
    info: Info,
    *,
    id: str,  # noqa: A002 -- the schema's name
) -> ItemRecord | None:
    context = nested(info)
    found = await found_or_none(context.plane.items.get(context.principal, id))
    return found if found is not None and found.queue_id == queue.id else None


QUERIES: Final[RootResolvers] = {
    "launchQueues": lambda context, args: context.plane.queues.list(
        context.principal, args.get("entity_name")
    ),
}
MUTATIONS: Final = {
    "createRunQueue": _create,
    "upsertRunQueue": _upsert,
    "deleteRunQueues": _delete_ids,
    "saveLaunchQueue": _save,
    "deleteLaunchQueue": _delete,
    "pauseLaunchQueue": _pause,
}
TYPES: Final = (_QUEUE,)
