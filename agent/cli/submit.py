"""`launch submit` puts a job on a queue; `launch run` runs it on this machine, now."""

import asyncio
import os
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.follow import Screen, exit_code_for, follow_item, wait_for
from agent.cli.job import print_progress, print_version
from agent.cli.options import (
    Json,
    Target,
    example,
    json_option,
    on_server,
    policy_of_commands,
    with_options,
)
from agent.cli.output import print_json, print_stderr
from agent.cli.submit_options import QUEUE_OPTIONS, RUN_OPTIONS, read_options
from agent.cli.terminal import escape_control_characters
from agent.model.cause import Cause
from agent.model.errors import ConfigError
from agent.model.phase import Phase

if TYPE_CHECKING:
    from agent.compose.direct import DirectRun
    from agent.config.choose_server import EmbeddedServer, RemoteServer
    from agent.config.load import Loaded
    from agent.jobs.request import SubmitOptions
    from agent.remote.user_operations import UserOperations

#: Causes of waiting that do not end by themselves.
_WAITS_FOR_SOMEBODY: Final = frozenset({
    Cause.SCHEDULE_NO_AGENT, Cause.SCHEDULE_PAUSED, Cause.SCHEDULE_CAPACITY, Cause.SCHEDULE_DISK,
    Cause.SCHEDULE_ENGINE, Cause.SCHEDULE_BUILDER,
})  # fmt: skip
#: As shells report a program that was ended by SIGPIPE.
_PIPE_CLOSED: Final = 141


@dataclass(frozen=True, slots=True)
class Remarks:
    """Where the command tells what it does."""

    #: Nowhere: standard output has JSON.
    quiet: bool
    #: On standard error: standard output has the job's own output.
    follows: bool


@click.command(
    "submit",
    epilog=example(
        'launch submit -q default --uri ./examples/hello -E "python main.py" --follow',
        "launch submit -q default --job demo/train:latest -P high",
        'launch submit -q default --docker-image python:3.11-slim -E "python -V" --wait',
    ),
)
@with_options(RUN_OPTIONS)
@with_options(QUEUE_OPTIONS)
@on_server
@json_option
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def submit(
    context: click.Context,
    /,
    target: Target,
    *,
    idempotency_key: str | None,
    dry_run: bool,
    wait: bool,
    follow: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Put a job on a queue; without --queue, run it on this machine, now.

    The job is an existing one (--job), a source from which one is made first (--uri, a directory
    or git repository), or a ready image (--docker-image). ARGS after `--` are appended to its
    command.
    """
    detach = flags["no_wait"]
    options = read_options(target.entity, flags)
    if dry_run:
        from agent.cli.render import show

        show(target, options, as_json=as_json)
        return
    if options.queue is None:
        context.exit(_run_here(target, options, as_json=as_json, detach=detach))
    queue = options.queue

    async def work(api: "UserOperations") -> Json:
        key = idempotency_key or uuid.uuid4().hex
        remarks = Remarks(quiet=as_json, follows=wait or follow)
        item = await _submit(api, queue, options, remarks, idempotencyKey=key)
        if not as_json:
            page = f"{target.remote().url}/launch/items/{item['id']}"
            _print_item(item, target.flags, page, waits=wait or follow)
            await _print_why_it_waits(api, item)
        if follow:
            item = await _follow(api, str(item["id"]), target.flags, quiet=as_json)
        elif wait:
            item = await wait_for(api, str(item["id"]))
        if (wait or follow) and not as_json:
            _print_end(item, target.flags, explain=True)
        return item

    item = target.call(work)
    if as_json:
        print_json(item)
    if wait or follow:
        context.exit(exit_code_for(item))


@click.command("run", epilog=example('launch run --uri ./examples/hello -E "python main.py"'))
@with_options(RUN_OPTIONS)
@on_server
@json_option
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(context: click.Context, /, target: Target, *, as_json: bool, **flags: Any) -> None:
    """Build and run a job on this machine, now, and exit as it does.

    The same as `launch submit` without --queue. The run is stored like any other; Ctrl-C stops
    it. ARGS after `--` are appended to its command.
    """
    detach = flags["no_wait"]
    options = read_options(target.entity, flags)
    context.exit(_run_here(target, options, as_json=as_json, detach=detach))


async def _submit(
    api: "UserOperations",
    queue: str,
    options: "SubmitOptions",
    remarks: Remarks,
    **fields: Any,
) -> Json:
    """Make the job if there is none yet, and put a run of it on the queue.

    Returns the item, with those of its warnings that were not told about the job. Queue and
    template variables are checked before a job is made.
    """
    from agent.jobs.submission import launch_spec, template_values

    fields |= {
        "priority": options.priority,
        "templateVariables": await template_values(api, queue, options),
    }
    job, told = await _job_of(api, options, remarks)
    spec = await asyncio.to_thread(launch_spec, options, job)
    given = {key: value for key, value in fields.items() if value is not None}
    item = await api.submit(queue, spec, **given)
    item["warnings"] = [each for each in item["warnings"] if each not in told]
    return item


async def _job_of(
    api: "UserOperations", options: "SubmitOptions", remarks: Remarks
) -> tuple[str | None, tuple[str, ...]]:
    """The full reference of the job, made from --uri or existing, and what was told about it.

    `None` for an image.
    """
    from agent.jobs.create import create_job, open_job_store

    if options.uri is None and options.job is None:
        return None, ()
    async with open_job_store(api.client) as store:
        if options.uri is None:
            # A name without a project is looked up in the run's, as the control plane does it.
            named = await api.job_reference(str(options.job), options.run_project())
            await store.artifacts.version(named)
            return str(named), ()
        request = options.job_request(await api.acting_entity())
        version = await create_job(store, request, print_progress)
    if remarks.quiet:
        return str(version.reference), ()
    print_version(version, as_remark=remarks.follows)
    return str(version.reference), version.remarks


def _run_here(target: Target, options: "SubmitOptions", *, as_json: bool, detach: bool) -> int:
    """Run it in this process, or start another one that does; returns the exit code."""
    if detach:
        return _detach()
    from agent.compose.direct import run_direct
    from agent.config.choose_server import EmbeddedServer
    from agent.config.load import load

    loaded = load(os.environ)
    choice = _choose_server(target, loaded)

    async def work(direct: "DirectRun") -> Json:
        if not as_json:
            print_stderr(f"launch: runs here; control plane {direct.url} ({direct.origin}).")
        remarks = Remarks(quiet=as_json, follows=True)
        key = uuid.uuid4().hex
        item = await _submit(direct.api, direct.queue, options, remarks, idempotencyKey=key)
        _print_warnings(item)
        item = await _follow(direct.api, str(item["id"]), target.flags, quiet=as_json)
        if not as_json:
            # An embedded control plane ends with this process: it answers no `explain`.
            _print_end(item, target.flags, explain=not isinstance(choice, EmbeddedServer))
        return item

    resource = options.resource or options.from_base("resource")
    policy = policy_of_commands(target.retry_for)
    item = asyncio.run(run_direct(loaded.config, choice, target.entity, resource, policy, work))
    if as_json:
        print_json(item)
    return exit_code_for(item)


def _choose_server(target: Target, loaded: "Loaded") -> "RemoteServer | EmbeddedServer":
    """The control plane of all commands; where none is configured, one of this process."""
    from agent.config.choose_server import EmbeddedServer

    try:
        return target.remote()
    except ConfigError:
        named = (target.server, os.environ.get("LAUNCH_SERVER"), os.environ.get("WANDB_BASE_URL"))
        if any(named) or loaded.config.server:
            raise
        return EmbeddedServer("no control plane is known")


def _detach() -> int:
    """Start the same command without `--async` in a process that outlives this one."""
    words = [word for word in sys.argv[1:] if word != "--async"]
    descriptor, name = tempfile.mkstemp(prefix="launch-run-", suffix=".log")
    with os.fdopen(descriptor, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli.main", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    print(f"Process {process.pid} runs it; its output is in {Path(name)}")
    return 0


async def _follow(api: "UserOperations", item_id: str, flags: str, *, quiet: bool) -> Json:
    """Show phases and logs until the item has ended; returns it."""
    screen = Screen()
    try:
        if quiet:
            return await wait_for(api, item_id)
        item = await follow_item(api, item_id, screen.print_phase, screen.write)
    except BrokenPipeError:
        # Not 0: how the job ends is not known here.
        raise click.exceptions.Exit(_PIPE_CLOSED) from None
    except BaseException:
        print_stderr(f"launch: the job goes on; `launch item stop {item_id}{flags}` stops it.")
        raise
    screen.end()
    return item


async def _print_why_it_waits(api: "UserOperations", item: Json) -> None:
    """A remark, where the item waits for something that somebody has to do."""
    if item["phase"] != Phase.QUEUED:
        return
    found = await api.item(str(item["id"]))
    if found["phase"] != Phase.QUEUED:
        return
    explanation = found["explanation"]
    if explanation["cause"] not in _WAITS_FOR_SOMEBODY:
        return
    # Its warnings have been told.
    details = [line for line in explanation["details"] if line not in found["warnings"]]
    for line in (f"it waits: {explanation['summary']}", *details, explanation["remedy"]):
        print_stderr(f"launch: {line}")


def _print_item(item: Json, flags: str, page: str, *, waits: bool) -> None:
    line = f"`{item['displayName']}` is item {item['id']} on the queue `{item['queueName']}`."
    _print_warnings(item)
    if waits:
        print_stderr(f"launch: {line}")
        return
    print(escape_control_characters(line))
    print(f"  Follow it: launch item logs {item['id']} --follow{flags}")
    print(f"  Its state: launch explain {item['id']}{flags}")
    print(f"  Its page:  {page}")
    sys.stdout.flush()


def _print_warnings(item: Json) -> None:
    for warning in item["warnings"]:
        print_stderr(f"launch: {warning}")


def _print_end(item: Json, flags: str, *, explain: bool) -> None:
    """How an item ended, why it failed, and, with `explain`, which command says more."""
    code, message = item["exitCode"], item["message"]
    by_itself = code is not None and item["cause"] in {"SUCCEEDED", "RUN_EXIT_CODE"}
    ended = f"exit code {code}" if by_itself else item["cause"]
    print_stderr(f"launch: {Phase(item['phase']).word}: {ended}")
    if item["phase"] != "SUCCEEDED":
        if message and message != ended:
            print_stderr(f"launch: {message}")
        if explain:
            print_stderr(f"launch: see `launch explain {item['id']}{flags}`")
