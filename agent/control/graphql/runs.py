"""Runs, as W&B's clients write and read them."""

from collections.abc import Sequence
from typing import Any, Final

from ariadne import ObjectType

from agent.control.files.run_files import checked_run_file
from agent.control.graphql.context import (
    Args,
    Context,
    Info,
    RootResolvers,
    connection,
    constant,
    nested,
    object_or_none,
    page_args,
)
from agent.control.graphql.files import FILE, run_file
from agent.control.graphql.run_history import RUN_HISTORY
from agent.control.services.paging import Page
from agent.control.services.run_streams import RunName
from agent.control.services.runs import RunChange, storage_id
from agent.control.store.projects import ProjectRecord
from agent.control.store.run_alerts import RunAlert
from agent.control.store.run_files import RunFileRecord
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
    names = {name: checked_run_file(name) for name in args["files"]}
    # Clients find the files by their names as they sent them.
    files = [
        run_file(context, run.entity, run.id, RunFileRecord(names[name], 0, None)) | {"name": name}
        for name in args["files"]
    ]
    return {"run_id": storage_id(run), "upload_headers": [], "files": files}


async def _delete_files(context: Context, args: Args) -> Json:
    """Delete files of runs by their ids; true if there was one of them."""
    found = False
    for file_id in args["files"]:
        run_id, _, name = file_id.partition(":")
        if await context.plane.run_files.remove(context.principal, run_id, name):
            await context.run_files.delete(run_id, name)
            found = True
    return {"success": found}


async def _alert(context: Context, args: Args) -> Json:
    sent = await context.plane.run_streams.alert(
        context.principal,
        RunName(args["entity_name"], args["project_name"], args["run_name"]),
        args["title"],
        args["text"],
        severity=args.get("severity") or "INFO",
        wait_seconds=(args.get("wait_duration") or 0) / 1e9,
    )
    return {"success": sent}


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


@_RUN.field("wandbConfig")
def _wandb_config(run: RunRecord, _info: Info, *, keys: list[str] | None = None) -> Json:
    """What the client keeps about itself in the config."""
    kept = run.config.get("_wandb")
    found = kept.get("value") if isinstance(kept, dict) else None
    if not isinstance(found, dict):
        return {}
    return found if keys is None else {key: found[key] for key in keys if key in found}


@_RUN.field("files")
async def _files(run: RunRecord, info: Info, **args: Any) -> Json:
    context = nested(info)
    names = [name for name in args.get("names") or () if name]
    page = await context.plane.run_files.list(
        run.id, names=names, pattern=args.get("pattern"), **page_args(args)
    )
    files = [run_file(context, run.entity, run.id, file) for file in page.rows]
    found = connection(Page(tuple(files), page.end_cursor, page.has_next, page.total))
    return {**found, "upload_headers": []}


@_RUN.field("fileCount")
async def _file_count(run: RunRecord, info: Info) -> int:
    return await nested(info).plane.run_files.count(run.id)


@_RUN.field("alerts")
async def _alerts(run: RunRecord, info: Info) -> Sequence[RunAlert]:
    return await nested(info).plane.run_streams.alerts(run.id)


@_RUN.field("jobProblem")
async def _job_problem(run: RunRecord, info: Info) -> str | None:
    context = nested(info)
    found = await context.plane.run_jobs.of_run(context.principal, run)
    return None if found is None else found.problem


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
    "deleteFiles": _delete_files,
    "notifyScriptableRunAlert": _alert,
}
TYPES: Final = (_RUN, RUN_HISTORY, FILE)
