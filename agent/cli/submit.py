"""`launch submit`: put a job on a queue, and wait for it or follow it."""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.connect import Target, json_option, on_server
from agent.cli.follow import Screen, exit_code_for, follow, wait_for
from agent.cli.output import print_json, safe, say
from agent.cli.values import mapping_from, pairs_from, priority_from
from agent.jobs.author import Wishes

if TYPE_CHECKING:
    from agent.remote.console import Console

Json = dict[str, Any]

#: Flags that become fields of `Wishes` under the same name.
_WISHES: Final = (
    click.option("-u", "--uri", help="A directory of code, or the URL of a git repository."),
    click.option("-d", "--docker-image", help="A ready image."),
    click.option("-E", "--entry-point", help='What to run: "python main.py".'),
    click.option("-g", "--git-version", "--git-hash", help="Branch, tag or commit."),
    click.option("--build-context", help="Folder of the source that is built."),
    click.option("-D", "--dockerfile", help="Dockerfile, relative to the build context."),
    click.option("-B", "--base-image", help="Image that the source is put into."),
    click.option("--name", "-J", "--job-name", envvar="WANDB_NAME", help="For people."),
    click.option(
        "-p", "--project", envvar=["LAUNCH_PROJECT", "WANDB_PROJECT"], default="default",
        show_default=True,
    ),
    click.option("-r", "--resource", help="Runner; the queue's by default."),
    click.option("--timeout", help="Stop it after this time: 90m, 12h."),
    click.option(
        "--retries", type=click.IntRange(0, 100),
        help="New attempts for causes that are not the job's own.",
    ),
    click.option(
        "--on-lost", type=click.Choice(["fail", "retry"]),
        help="What to do when the machine that runs it is gone.",
    ),
    click.option("--cpus", type=click.FloatRange(0, min_open=True), help="Cores it needs."),
    click.option("--memory", help="Memory it needs: 8GiB."),
    click.option("--gpus", type=click.IntRange(0), help="Devices it needs."),
)  # fmt: skip

_SUBMISSION: Final = (
    click.option(
        "-q", "--queue", is_flag=False, flag_value="default", default="default",
        show_default=True, help="Queue; -q alone means `default`.",
    ),
    click.option("-c", "--config", metavar="FILE|JSON", help="A launch spec to start from."),
    click.option("-R", "--resource-args", metavar="FILE|JSON", help="Arguments for the runner."),
    click.option("-v", "--set-var", "variables", multiple=True, metavar="K=V"),
    click.option("-P", "--priority", help="critical, high, medium or low."),
    click.option("--idempotency-key", help="The same key gives the same item, for 24 hours."),
    click.option("--wait", is_flag=True, help="Wait for its end, and end as it does."),
    click.option("--follow", is_flag=True, help="As --wait, and show phases and logs."),
)  # fmt: skip


Command = Callable[..., Any]


def _with(options: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command("submit")
@_with(_WISHES)
@_with(_SUBMISSION)
@on_server
@json_option
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def submit(
    context: click.Context,
    /,
    target: Target,
    queue: str,
    *,
    config: str | None,
    resource_args: str | None,
    variables: tuple[str, ...],
    priority: str | None,
    idempotency_key: str | None,
    wait: bool,
    follow: bool,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Put a job on a queue.

    Its source is a directory or git repository (--uri), or a ready image (--docker-image).
    ARGS after `--` are appended to its command.
    """
    whole = Wishes(
        **wishes,
        entity=target.entity,
        base=mapping_from(config, "--config") if config else None,
        resource_args=mapping_from(resource_args, "--resource-args") if resource_args else None,
    )
    options = {"priority": None if priority is None else priority_from(priority)}
    given = pairs_from(variables, "--set-var")

    async def work(console: "Console") -> Json:
        from agent.jobs.submission import submit_job

        options["idempotencyKey"] = idempotency_key or uuid.uuid4().hex  # type: ignore[assignment]
        item = await submit_job(console, queue, whole, given, options)
        return await _accompany(console, item, wait=wait, follow=follow, quiet=as_json)

    item = target.call(work)
    if as_json:
        print_json(item)
    if wait or follow:
        context.exit(exit_code_for(item))


async def _accompany(
    console: "Console", item: Json, *, wait: bool, follow: bool, quiet: bool
) -> Json:
    item_id = str(item["id"])
    if not quiet:
        _announce(item, waits=wait or follow)
    if follow:
        item = await _follow(console, item_id, quiet=quiet)
    elif wait:
        item = await wait_for(console, item_id)
    if (wait or follow) and not quiet:
        _conclude(item)
    return item


def _announce(item: Json, *, waits: bool) -> None:
    title = f"`{item['name']}`" if item["name"] else "The job"
    line = f"{title} is item {item['id']} on the queue `{item['queueName']}`."
    if waits:
        say(f"launch: {line}")
        return
    print(safe(line))
    print(f"  Follow it: launch item logs {item['id']} --follow")
    print(f"  Or ask:    launch explain {item['id']}")


async def _follow(console: "Console", item_id: str, *, quiet: bool) -> Json:
    screen = Screen()
    try:
        if quiet:
            return await wait_for(console, item_id)
        return await follow(console, item_id, screen.remark, screen.write)
    except BaseException:
        say(f"launch: the job goes on without this window; `launch item stop {item_id}` stops it.")
        raise


def _conclude(item: Json) -> None:
    code = item["exitCode"]
    ended = f"exit code {code}" if code is not None else item["cause"]
    say(f"launch: {str(item['phase']).lower()}: {ended}")
    if item["phase"] != "SUCCEEDED":
        if item["message"]:
            say(f"launch: {item['message']}")
        say(f"launch: see `launch explain {item['id']}`")
