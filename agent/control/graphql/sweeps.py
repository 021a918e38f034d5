"""Sweeps, as W&B's clients write, read and run them."""

import asyncio
from typing import Any, Final

from ariadne import ObjectType

from agent.control.graphql.context import (
    Args,
    Context,
    Info,
    RootResolvers,
    connection,
    constant,
    nested,
    page_args,
)
from agent.control.services.sweep_config import SweepConfig
from agent.control.services.sweeps import SweepChange
from agent.control.store.projects import ProjectRecord
from agent.control.store.sweeps import SweepRecord
from agent.model.errors import InvalidInputError
from agent.model.spec import Json

#: Inputs of `upsertSweep` for what is not offered, each with its name in a message.
_NOT_OFFERED: Final = {
    "launch_scheduler": "schedulers on launch queues",
    "scheduler": "schedulers on launch queues",
    "prior_runs_filters": "runs from before the sweep",
    "controller": "controllers of a user's own",
}


async def _upsert(context: Context, args: Args) -> Json:
    for name, what in _NOT_OFFERED.items():
        if args.get(name):
            raise InvalidInputError(
                f"Sweeps with {what} are not offered by this server.",
                hint="Start the sweep with `wandb sweep` and run it with `wandb agent`.",
            )
    text = args.get("config")
    change = SweepChange(
        config=None if text is None else await asyncio.to_thread(SweepConfig.parse, text),
        display_name=args.get("display_name"),
        description=args.get("description"),
        state=args.get("state"),
    )
    sweeps, principal = context.plane.sweeps, context.principal
    if args.get("id") is not None:
        record = await sweeps.change(principal, args["id"], change)
    else:
        place = args.get("entity_name"), args.get("project_name")
        record = await sweeps.insert(principal, *place, change)
    return {"sweep": record, "config_validation_warnings": []}


async def _create_agent(context: Context, args: Args) -> Json:
    agent_id = await context.plane.sweeps.add_agent(
        context.principal,
        args.get("entity_name"),
        args.get("project_name"),
        args["sweep"],
        args["host"],
    )
    return {"agent": {"id": agent_id}}


async def _heartbeat(context: Context, args: Args) -> Json:
    states = args.get("run_state") or {}
    if not isinstance(states, dict):
        raise InvalidInputError("`runState` must be a JSON object.")
    live = frozenset(name for name, is_live in states.items() if is_live)
    commands = await context.plane.sweeps.heartbeat(context.principal, args["id"], live)
    return {"agent": {"id": args["id"]}, "commands": commands}


_SWEEP: Final = ObjectType("Sweep")
_SWEEP.set_alias("config", "config_text")
_SWEEP.set_alias("runCountExpected", "combinations")
_SWEEP.set_alias("heartbeatAt", "updated_at")
_SWEEP.set_field("method", constant("grid"))
_SWEEP.set_field("earlyStopJobRunning", constant(False))


@_SWEEP.field("state")
async def _state(sweep: SweepRecord, info: Info) -> str:
    return await nested(info).plane.sweeps.state(sweep)


@_SWEEP.field("bestLoss")
async def _best(sweep: SweepRecord, info: Info) -> float | None:
    return await nested(info).plane.sweeps.best(sweep)


@_SWEEP.field("project")
async def _project(sweep: SweepRecord, info: Info) -> ProjectRecord | None:
    context = nested(info)
    return await context.plane.projects.get(context.principal, sweep.entity, sweep.project)


@_SWEEP.field("runs")
async def _runs(sweep: SweepRecord, info: Info, **args: Any) -> Json:
    context = nested(info)
    page = await context.plane.runs.list(
        context.principal,
        sweep.entity,
        sweep.project,
        filters={"sweep": sweep.name},
        **page_args(args),
    )
    return connection(page)


_PROJECT: Final = ObjectType("Project")


@_PROJECT.field("sweep")
async def _sweep(project: ProjectRecord, info: Info, *, sweep_name: str) -> SweepRecord | None:
    context = nested(info)
    place = (project.entity, project.name, sweep_name)
    return await context.plane.sweeps.get(context.principal, *place)


@_PROJECT.field("sweeps")
async def _sweeps(project: ProjectRecord, info: Info, **args: Any) -> Json:
    context = nested(info)
    if args.get("filters"):
        raise InvalidInputError("Filters of sweeps are not offered by this server.")
    page = await context.plane.sweeps.list(
        context.principal, project.entity, project.name, **page_args(args)
    )
    return connection(page)


@_PROJECT.field("totalSweeps")
async def _total(project: ProjectRecord, info: Info) -> int:
    context = nested(info)
    page = await context.plane.sweeps.list(context.principal, project.entity, project.name, first=1)
    return page.total


QUERIES: Final[RootResolvers] = {}
MUTATIONS: Final = {
    "upsertSweep": _upsert,
    "createAgent": _create_agent,
    "agentHeartbeat": _heartbeat,
}
TYPES: Final = (_SWEEP, _PROJECT)
