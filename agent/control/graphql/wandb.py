"""What W&B's clients and agents call: push (submit), pop, acknowledge, fail, warn, heartbeat."""

from typing import Final

from ariadne import ObjectType

from agent.control.graphql.context import Args, Context, RootResolvers, as_object
from agent.control.store.items import ItemRecord, Submission
from agent.model.spec import Json


async def _push(context: Context, args: Args) -> Json:
    queue = await context.plane.queues.by_id(context.principal, args["queue_id"])
    item = await _submit(context, args, queue.entity, queue.name)
    return {"run_queue_item_id": item.id}


async def _push_by_name(context: Context, args: Args) -> Json:
    item = await _submit(context, args, args["entity_name"], args["queue_name"])
    return {"run_queue_item_id": item.id, "run_spec": item.run_spec}


async def _submit(context: Context, args: Args, entity: str, queue: str) -> ItemRecord:
    """The project is the run's, from the spec; that of the arguments is the queue's."""
    spec = as_object(args["run_spec"], "runSpec")
    submission = Submission(
        entity=entity,
        project=spec.get("project"),
        queue=queue,
        run_spec=spec,
        template_variables=as_object(
            args.get("template_variable_values"), "templateVariableValues"
        ),
        priority=args.get("priority"),
    )
    return await context.plane.items.submit(context.principal, submission)


async def _pop(context: Context, args: Args) -> Json | None:
    popped = await context.plane.wandb.pop(
        context.principal, args["entity_name"], args["queue_name"], args.get("launch_agent_id")
    )
    if popped is None:
        return None
    return {"run_queue_item_id": popped.item_id, "run_spec": popped.run_spec}


async def _acknowledge(context: Context, args: Args) -> Json:
    done = await context.plane.wandb.acknowledge(
        context.principal, args["run_queue_item_id"], args["run_name"]
    )
    return {"success": done}


async def _fail(context: Context, args: Args) -> Json:
    return {"success": await context.plane.wandb.fail(context.principal, *_problem(args))}


async def _warn(context: Context, args: Args) -> Json:
    return {"success": await context.plane.wandb.warn(context.principal, *_problem(args))}


def _problem(args: Args) -> tuple[str, str, str, list[str] | None]:
    return args["run_queue_item_id"], args["message"], args["stage"], args.get("file_paths")


async def _delete_item(context: Context, args: Args) -> Json:
    done = await context.plane.items.delete(
        context.principal, args["queue_id"], args["run_queue_item_id"]
    )
    return {"success": done}


async def _create_agent(context: Context, args: Args) -> Json:
    agent = await context.plane.wandb.create_agent(
        context.principal,
        args["entity_name"],
        args["run_queues"],
        args["hostname"],
        config=as_object(args.get("agent_config"), "agentConfig"),
        version=args.get("version"),
    )
    return {"launch_agent_id": agent.id}


async def _update_agent(context: Context, args: Args) -> Json:
    done = await context.plane.wandb.update_agent(
        context.principal, args["launch_agent_id"], args.get("agent_status")
    )
    return {"success": done}


QUERIES: Final[RootResolvers] = {}
MUTATIONS: Final = {
    "pushToRunQueue": _push,
    "pushToRunQueueByName": _push_by_name,
    "popFromRunQueue": _pop,
    "ackRunQueueItem": _acknowledge,
    "failRunQueueItem": _fail,
    "updateRunQueueItemWarning": _warn,
    "deleteFromRunQueue": _delete_item,
    "createLaunchAgent": _create_agent,
    "updateLaunchAgent": _update_agent,
}
TYPES: Final[tuple[ObjectType, ...]] = ()
