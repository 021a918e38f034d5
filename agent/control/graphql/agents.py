"""Agents, as users read and stop them, and as they register."""

from dataclasses import asdict
from typing import Final

from ariadne import ObjectType

from agent.control.graphql.context import Args, Context, Info, RootResolvers, as_object, nested
from agent.control.store.agents import AgentRecord
from agent.control.store.items import ItemRecord
from agent.model.capacity import Capacity
from agent.model.protocol import AgentRegistration
from agent.model.spec import Json


async def _register(context: Context, args: Args) -> Json:
    registration = AgentRegistration(
        entity=args.get("entity_name"),
        name=args["name"],
        hostname=args["hostname"],
        version=args.get("version") or "",
        queues=tuple(args["queue_names"]),
        identity=args["identity"],
        session=args["session"],
        backend_id=args.get("backend_id"),
        resources=tuple(args.get("resources") or ()),
        capacity=capacity_of(args["capacity"]),
        config=as_object(args.get("config"), "config"),
        after_shutdown=bool(args.get("after_shutdown")),
    )
    registered = await context.plane.agents.register(context.principal, registration)
    config = context.plane.config
    return {
        "agent": registered.agent,
        "held": registered.held,
        "control_plane_id": context.plane.control_plane_id,
        "heartbeat_seconds": max(1, round(config.heartbeat)),
        "lease_seconds": max(1, round(config.lease)),
    }


def capacity_of(given: Args) -> Capacity:
    """Capacity that an agent reports; what it leaves out is not limited."""
    return Capacity(
        slots=given.get("slots"),
        cpus=given.get("cpus"),
        memory=given.get("memory"),
        gpus=tuple(given.get("gpus") or ()),
    )


_AGENT: Final = ObjectType("LaunchAgent")
_AGENT.set_alias("entityName", "entity")
_AGENT.set_alias("runQueues", "queue_ids")
_AGENT.set_alias("agentStatus", "status")
_AGENT.set_field("stopPolling", lambda agent, _info: agent.stop is not None)


@_AGENT.field("draining")
def _draining(agent: AgentRecord, _info: Info) -> bool:
    return agent.status == "DRAINING" or agent.stop == "DRAIN"


@_AGENT.field("capacity")
def _capacity(agent: AgentRecord, _info: Info) -> Json | None:
    if agent.capacity is None:
        return None
    return {**asdict(agent.capacity), "resources": agent.resources}


@_AGENT.field("items")
async def _held(agent: AgentRecord, info: Info) -> tuple[ItemRecord, ...]:
    context = nested(info)
    return await context.plane.items.held_by(context.principal, agent.id)


QUERIES: Final[RootResolvers] = {
    "launchAgent": lambda context, args: context.plane.wandb.poll(context.principal, args["id"]),
    "launchAgents": lambda context, args: context.plane.agents.list(
        context.principal, args.get("entity_name")
    ),
}
MUTATIONS: Final[RootResolvers] = {
    "stopLaunchAgent": lambda context, args: context.plane.agents.stop(
        context.principal, args["id"], args["mode"]
    ),
    "registerLaunchAgent": _register,
    "adoptLaunchItems": lambda context, args: context.plane.agents.adopt(
        context.principal, args["agent_id"], args["session"]
    ),
}
TYPES: Final = (_AGENT,)
