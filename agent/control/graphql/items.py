"""Items for our own clients; W&B's push, pop and acknowledge are in `wandb.py`."""

from typing import Final

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
from agent.control.services.explain import Explanation
from agent.control.store.history import AttemptRecord, EventRecord
from agent.control.store.item_lists import ItemFilter
from agent.control.store.items import DryRun, ItemRecord, Submission
from agent.model.phase import Phase
from agent.model.spec import Json


async def _items(context: Context, args: Args) -> Json:
    phases = args.get("phases")
    narrow = ItemFilter(
        phases=None if phases is None else [Phase(phase) for phase in phases],
        job=args.get("job_name"),
        author=args.get("author"),
        search=args.get("search"),
    )
    page = await context.plane.items.list(
        context.principal,
        args.get("entity_name"),
        queue=args.get("queue_name"),
        narrow=narrow,
        **page_args(args),
    )
    return connection(page)


async def _dry_run(context: Context, args: Args) -> DryRun:
    job_file = object_or_none(args.get("job_file"), "jobFile")
    return await context.plane.items.dry_run(context.principal, _submission(args), job_file)


def _submission(args: Args) -> Submission:
    return Submission(
        entity=args.get("entity_name"),
        project=args.get("project_name"),
        queue=args.get("queue_name") or "",
        run_spec=as_object(args["run_spec"], "runSpec"),
        template_variables=as_object(args.get("template_variables"), "templateVariables"),
        priority=args.get("priority"),
        idempotency_key=args.get("idempotency_key"),
    )


_ITEM: Final = ObjectType("LaunchItem")
_QUEUE_ITEM: Final = ObjectType("RunQueueItem")
_DRY_RUN: Final = ObjectType("LaunchDryRun")
for _field in ("entity", "project", "queue"):
    _ITEM.set_alias(f"{_field}Name", _field)
    _DRY_RUN.set_alias(f"{_field}Name", _field)
for _field in ("cpus", "memory", "gpus"):
    _DRY_RUN.set_alias(_field, f"demand.{_field}")


@_ITEM.field("attempts")
async def _attempts(item: ItemRecord, info: Info) -> tuple[AttemptRecord, ...]:
    context = nested(info)
    return await context.plane.items.attempts(context.principal, item.id)


@_ITEM.field("events")
async def _events(item: ItemRecord, info: Info) -> tuple[EventRecord, ...]:
    context = nested(info)
    return await context.plane.items.events(context.principal, item.id)


@_ITEM.field("explanation")
async def _explanation(item: ItemRecord, info: Info) -> Explanation:
    context = nested(info)
    return await context.plane.items.explain(context.principal, item.id)


@_QUEUE_ITEM.field("associatedRunId")
def _associated_run(item: ItemRecord, _info: Info) -> str | None:
    """Only once an agent has taken the item for good: clients then look for the run."""
    return item.run_name if item.state in {"CLAIMED", "FAILED"} else None


QUERIES: Final[RootResolvers] = {
    "launchItems": _items,
    "launchItem": lambda context, args: found_or_none(
        context.plane.items.get(context.principal, args["id"])
    ),
    "launchDryRun": _dry_run,
}
MUTATIONS: Final[RootResolvers] = {
    "submitLaunchItem": lambda context, args: context.plane.items.submit(
        context.principal, _submission(args)
    ),
    "stopLaunchItem": lambda context, args: context.plane.items.stop(context.principal, args["id"]),
    "retryLaunchItem": lambda context, args: context.plane.items.retry(
        context.principal, args["id"], args.get("attempt")
    ),
    "moveLaunchItem": lambda context, args: context.plane.items.move(
        context.principal, args["id"], args["queue_name"]
    ),
    "setLaunchItemPriority": lambda context, args: context.plane.items.set_priority(
        context.principal, args["id"], args["priority"]
    ),
}
TYPES: Final = (_ITEM, _QUEUE_ITEM, _DRY_RUN)
