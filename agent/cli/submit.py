"""`launch submit`: put a job on a queue, and wait for it or follow it; or run it here."""

import sys
import uuid
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.connect import Target, json_option, on_server
from agent.cli.follow import Screen, exit_code_for, follow, wait_for
from agent.cli.job_create import announce, tell_progress, with_options
from agent.cli.output import print_json, safe, say
from agent.cli.submit_options import QUEUEING, WISHES, Asked, read_flags
from agent.cli.workbench import open_workbench

if TYPE_CHECKING:
    from agent.jobs.new_job import Made
    from agent.remote.console import Console

Json = dict[str, Any]

#: As shells report a program ended by SIGPIPE.
_PIPE_CLOSED: Final = 141


@click.command("submit")
@with_options(WISHES)
@with_options(QUEUEING)
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
    """Put a job on a queue, or, without --queue, run it here and now.

    A job that exists (--job), or a source: a directory or git repository (--uri), which
    becomes a job first, or a ready image (--docker-image). ARGS after `--` are appended to its
    command.
    """
    no_wait = flags["no_wait"]
    asked = read_flags(target.entity, flags)
    if dry_run:
        from agent.cli.render import show

        show(target, asked, as_json=as_json)
        return
    if asked.queue is None:
        from agent.cli.run import run_here

        context.exit(run_here(target, asked, as_json=as_json, detached=no_wait))
    queue = asked.queue

    async def work(console: "Console") -> Json:
        options = {"idempotencyKey": idempotency_key or uuid.uuid4().hex}
        item = await push(console, queue, asked, options, quiet=as_json)
        return await _accompany(console, item, wait=wait, follow=follow, quiet=as_json)

    item = target.call(work)
    if as_json:
        print_json(item)
    if wait or follow:
        context.exit(exit_code_for(item))


async def push(console: "Console", queue: str, asked: Asked, options: Json, *, quiet: bool) -> Json:
    """Make the job if need be, and put it on the queue; gives the item."""
    from agent.jobs.launching import Launch, launch

    async def make_job(entity: str) -> "Made":
        from agent.jobs.create import create_job

        async with open_workbench(console) as bench:
            wanted = asked.new_job(entity)
            return await create_job(
                bench, wanted, source=asked.source, with_diff=asked.with_diff,
                progress=tell_progress,
            )  # fmt: skip

    def told(made: "Made") -> None:
        if not quiet:
            announce(made)

    asking = Launch(
        queue=queue,
        wishes=asked.wishes,
        variables=asked.variables,
        options={"priority": asked.priority, **options},
        make_job=make_job if asked.makes_job else None,
    )
    return await launch(console, asking, told)


async def _accompany(
    console: "Console", item: Json, *, wait: bool, follow: bool, quiet: bool
) -> Json:
    item_id = str(item["id"])
    if not quiet:
        _announce(item, waits=wait or follow)
    if follow:
        item = await follow_item(console, item_id, quiet=quiet)
    elif wait:
        item = await wait_for(console, item_id)
    if (wait or follow) and not quiet:
        conclude(item)
    return item


def _announce(item: Json, *, waits: bool) -> None:
    title = f"`{item['name']}`" if item["name"] else "The job"
    line = f"{title} is item {item['id']} on the queue `{item['queueName']}`."
    for warning in item["warnings"]:
        say(f"launch: {warning}")
    if waits:
        say(f"launch: {line}")
        return
    print(safe(line))
    print(f"  Follow it: launch item logs {item['id']} --follow")
    print(f"  Or ask:    launch explain {item['id']}")
    sys.stdout.flush()


async def follow_item(console: "Console", item_id: str, *, quiet: bool) -> Json:
    """Show phases and logs until the item has ended; gives it."""
    screen = Screen()
    try:
        if quiet:
            return await wait_for(console, item_id)
        return await follow(console, item_id, screen.remark, screen.write)
    except BrokenPipeError:
        # Not 0: how the job ends is not known, or could not be told.
        raise click.exceptions.Exit(_PIPE_CLOSED) from None
    except BaseException:
        say(f"launch: the job goes on without this window; `launch item stop {item_id}` stops it.")
        raise


def conclude(item: Json, *, explained: bool = True) -> None:
    """How it ended, and where to read more, if there is a plane that still answers."""
    code, message = item["exitCode"], item["message"]
    by_itself = code is not None and item["cause"] in {"SUCCEEDED", "RUN_EXIT_CODE"}
    ended = f"exit code {code}" if by_itself else item["cause"]
    say(f"launch: {str(item['phase']).lower()}: {ended}")
    if item["phase"] != "SUCCEEDED":
        if message and message != ended:
            say(f"launch: {message}")
        if explained:
            say(f"launch: see `launch explain {item['id']}`")
