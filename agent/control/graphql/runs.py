"""Runs, as W&B's clients write and read them."""

from typing import Final

from ariadne import ObjectType

from agent.control.files.run_files import checked_run_file
from agent.control.graphql.context import (
    Args,
    Context,
    Info,
    RootResolvers,
    constant,
    context_of,
    nested,
    object_or_none,
)
from agent.control.graphql.files import run_file
from agent.control.services.history_keys import wandb_keys
from agent.control.services.run_streams import RunName
from agent.control.services.runs import RunChange, storage_id
from agent.control.store.projects import ProjectRecord
from agent.control.store.run_streams import Stream, StreamRecord
from agent.control.store.runs import RunPlace, RunRecord
from agent.model.spec import Json


async def _upsert(context: Context, args: Args) -> Json:
    record, inserted = await context.plane.runs.upsert(
        context.principal,
        _change(args),
        run_id=args.get("id"),
        entity=args.get("entity_name"),
        project=args.get("model_name"),
        name=args.get("name"),
    )
    settings: Json = {"server_messages": []}
    return {"bucket": record, "inserted": inserted, "server_settings": settings}


def _change(args: Args) -> RunChange:
    tags = args.get("tags")
    return RunChange(
        display_name=args.get("display_name"),
        description=args.get("description"),
        notes=args.get("notes"),
        tags=None if tags is None else tuple(tags),
        group=args.get("group_name"),
        job_type=args.get("job_type"),
        commit=args.get("commit"),
        config=object_or_none(args.get("config"), "config"),
        summary=object_or_none(args.get("summary_metrics"), "summaryMetrics"),
        state=args.get("state"),
        host=args.get("host"),
        program=args.get("job_program"),
        git_remote=args.get("job_repo"),
        sweep=args.get("sweep"),
    )


async def _stop(context: Context, args: Args) -> Json:
    return {"success": await context.plane.runs.stop(context.principal, args["id"])}


async def _delete(context: Context, args: Args) -> Json:
    """Delete a run and its files, but not its artifacts."""
    run = await context.plane.runs.delete(context.principal, args["id"])
    if run is not None:
        await context.run_files.delete_run(run.id)
        await context.run_streams.delete_run(run.id)
    return {"success": run is not None}


async def _create_files(context: Context, args: Args) -> Json:
    run = await _run_of(context, args)
    names = [checked_run_file(name) for name in args["files"]]
    files = [run_file(context, run.entity, run.id, name) for name in names]
    return {"run_id": storage_id(run), "upload_headers": [], "files": files}


async def _mark_uploaded(context: Context, args: Args) -> Json:
    await _run_of(context, args)
    return {"success": True}


async def _run_of(context: Context, args: Args) -> RunPlace:
    name = RunName(args["entity_name"], args["project_name"], args["run_name"])
    return await context.plane.run_streams.heartbeat(context.principal, name)


async def _set_state(context: Context, args: Args) -> Json:
    done = await context.plane.runs.set_state(context.principal, args["id"], args["state"])
    return {"success": done}


_RUN: Final = ObjectType("Run")
for _field, _attribute in {
    "projectId": "project_number",
    "summaryMetrics": "summary",
    "sweepName": "sweep",
    "shouldStop": "stopped",
    "exitcode": "exit_code",
}.items():
    _RUN.set_alias(_field, _attribute)
_RUN.set_field("id", lambda run, _info: storage_id(run))
_RUN.set_field("failed", lambda run, _info: run.state == "failed")
_RUN.set_field("running", lambda run, _info: run.state == "running")
_RUN.set_field("readOnly", constant(False))
_RUN.set_alias("historyLineCount", "history_lines")


async def _stream(run: RunRecord, info: Info, stream: Stream) -> StreamRecord:
    """The state of a stream; that of all three is looked up once per run."""
    context = context_of(info)
    states = await context.once(
        ("streams", run.id), lambda: context.plane.run_streams.states(run.id)
    )
    return states.get(stream, StreamRecord())


@_RUN.field("eventsLineCount")
async def _event_count(run: RunRecord, info: Info) -> int:
    return (await _stream(run, info, "events")).line_count


@_RUN.field("logLineCount")
async def _log_count(run: RunRecord, info: Info) -> int:
    return (await _stream(run, info, "output")).line_count


@_RUN.field("historyTail")
async def _history_tail(run: RunRecord, info: Info) -> list[str]:
    return _tail(await _stream(run, info, "history"))


@_RUN.field("eventsTail")
async def _events_tail(run: RunRecord, info: Info) -> list[str]:
    return _tail(await _stream(run, info, "events"))


def _tail(state: StreamRecord) -> list[str]:
    return [state.tail.decode()] if state.tail else []


@_RUN.field("systemMetrics")
async def _system_metrics(run: RunRecord, info: Info) -> str:
    """The last row of system metrics."""
    return (await _stream(run, info, "events")).tail.decode() or "{}"


@_RUN.field("historyKeys")
async def _history_keys(run: RunRecord, info: Info) -> Json:
    state = await _stream(run, info, "history")
    return wandb_keys(state.keys or {}, state.last_step)


@_RUN.field("wandbConfig")
def _wandb_config(run: RunRecord, _info: Info, *, keys: list[str] | None = None) -> Json:
    """What the client keeps about itself in the config."""
    kept = run.config.get("_wandb")
    found = kept.get("value") if isinstance(kept, dict) else None
    if not isinstance(found, dict):
        return {}
    return found if keys is None else {key: found[key] for key in keys if key in found}


@_RUN.field("project")
async def _project(run: RunRecord, info: Info) -> ProjectRecord | None:
    context = nested(info)
    return await context.plane.projects.get(context.principal, run.entity, run.project)


@_RUN.field("user")
def _user(run: RunRecord, _info: Info) -> Json:
    """Never null, at which W&B's clients fail: runs of an agent's key belong to the entity."""
    name = run.user or run.entity
    return {"id": name, "name": name, "username": name}


QUERIES: Final[RootResolvers] = {}
MUTATIONS: Final = {
    "upsertBucket": _upsert,
    "deleteRun": _delete,
    "stopRun": _stop,
    "updateRunState": _set_state,
    "createRunFiles": _create_files,
    "markRunFilesUploaded": _mark_uploaded,
}
TYPES: Final = (_RUN,)
