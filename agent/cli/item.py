"""`launch item`: list, show, logs, stop, retry, move, priority; `launch explain`."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Literal

import click

from agent.cli.errors import show_error
from agent.cli.follow import copy_log
from agent.cli.options import Json, Target, example, json_option, on_server, priority_from
from agent.cli.output import (
    Columns,
    format_age,
    format_elapsed,
    phase_word,
    print_json,
    print_list,
    print_pairs,
    print_stderr,
)
from agent.cli.terminal import LogOutput, escape_control_characters, plain_lines
from agent.model.cause import Cause
from agent.model.errors import (
    ConflictError,
    InvalidInputError,
    LaunchError,
    NotFoundError,
    PermissionDeniedError,
)
from agent.model.names import PRIORITIES, did_you_mean
from agent.model.phase import PHASE_WORDS, TERMINAL, Phase, phases_named

if TYPE_CHECKING:
    from agent.remote.user_operations import UserOperations


#: The end of a log that `explain` reads, in bytes, and what it shows of that, in lines.
_TAIL_BYTES: Final = 8192
_TAIL_LINES: Final = 10


@click.group()
def item() -> None:
    """List, show, stop, retry and move queue items."""


@item.command(
    "list",
    epilog=example(
        "launch item list -q default --active", "launch item list --phase failed --search resnet"
    ),
)
@click.option("-q", "--queue", help="Only of this queue.")
@click.option(
    "--phase",
    "phases",
    multiple=True,
    help="Only in this phase, as shown or by its name in JSON; may be repeated.",
)
@click.option("-j", "--job", help="Only of this job: NAME, or ENTITY/PROJECT/NAME.")
@click.option("--author", help="Only of this user.")
@click.option("-s", "--search", help="Only with this text in the name, or of this id.")
@click.option("--active", is_flag=True, help="Only items that have not ended.")
@click.option(
    "-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many."
)
@click.option("--ids", "only_ids", is_flag=True, help="Print nothing but ids.")
@on_server
@json_option
def list_items(
    target: Target,
    queue: str | None,
    phases: tuple[str, ...],
    limit: int,
    *,
    active: bool,
    only_ids: bool,
    as_json: bool,
    **narrow: str | None,
) -> None:
    """List items, newest first."""
    chosen = tuple(phase for text in phases for phase in _phases(text))
    if active:
        chosen += tuple(phase.value for phase in Phase if phase not in TERMINAL)

    async def work(api: "UserOperations") -> list[Json]:
        if queue is not None:
            await api.queue(queue)
        return await api.items(queue=queue, phases=chosen, limit=limit, **narrow)

    found = target.call(work)
    if only_ids:
        for each in found:
            print(each["id"])
        return
    empty = f"No items; `launch submit -q default{target.entity_flag} …` puts one on a queue."
    print_list(found, _COLUMNS, empty, as_json=as_json)


@item.command("show", epilog=example("launch item show k3v9xw2m7qpa"))
@click.argument("item_id", metavar="ID")
@on_server
@json_option
def show(target: Target, item_id: str, *, as_json: bool) -> None:
    """Show one item with its history."""
    found = target.call(lambda api: api.item(item_id))
    if as_json:
        print_json(found)
        return
    print_pairs([*_details(found), ("page", f"{target.remote().url}/launch/items/{found['id']}")])


@item.command("logs", epilog=example("launch item logs k3v9xw2m7qpa --follow"))
@click.argument("item_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the attempt has ended.")
@click.option("--attempt", type=click.IntRange(1), help="The last one by default.")
@click.option(
    "--channel", type=click.Choice(["job", "setup"]), default="job", show_default=True,
    help="`setup` is the output of fetching and building.",
)  # fmt: skip
@on_server
def logs(
    target: Target,
    item_id: str,
    attempt: int | None,
    channel: Literal["job", "setup"],
    *,
    follow: bool,
) -> None:
    """Write an item's log to standard output.

    Byte for byte, except on a terminal: there, control sequences other than colours and movements
    within a line are shown, not obeyed.
    """

    async def work(api: "UserOperations") -> None:
        number = attempt or await _last_attempt(api, item_id, follow=follow)
        output = LogOutput(sys.stdout)
        if follow:
            await copy_log(api, item_id, (number, channel), lambda _, piece: output.write(piece))
        else:
            async for piece in api.log(item_id, number, channel):
                output.write(piece)
        if output.is_empty:
            print_stderr(_why_empty(await api.item_summary(item_id), channel))

    target.call(work)


@item.command("stop", epilog=example("launch item stop k3v9xw2m7qpa"))
@click.argument("item_ids", metavar="ID...", nargs=-1, required=True)
@on_server
@json_option
def stop(target: Target, item_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Stop items: waiting ones at once, running ones by SIGTERM, then SIGKILL."""
    _change_each(target, item_ids, lambda api, one: api.stop_item(one), as_json=as_json)


@item.command("retry", epilog=example("launch item retry k3v9xw2m7qpa"))
@click.argument("item_ids", metavar="ID...", nargs=-1, required=True)
@on_server
@json_option
def retry(target: Target, item_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Retry items that did not succeed."""
    _change_each(target, item_ids, lambda api, one: api.retry_item(one), as_json=as_json)


@item.command("move", epilog=example("launch item move k3v9xw2m7qpa --to gpu"))
@click.argument("item_id", metavar="ID")
@click.option("--to", "queue", required=True, help="The queue to move it to.")
@on_server
@json_option
def move(target: Target, item_id: str, queue: str, *, as_json: bool) -> None:
    """Move a queued item to another queue."""

    async def change(api: "UserOperations", one: str) -> Json:
        await api.queue(queue)
        return await api.move_item(one, queue)

    _change_each(target, (item_id,), change, as_json=as_json)


@item.command("priority", epilog=example("launch item priority k3v9xw2m7qpa high"))
@click.argument("item_id", metavar="ID")
@click.argument("priority", metavar="critical|high|medium|low")
@on_server
@json_option
def set_priority(target: Target, item_id: str, priority: str, *, as_json: bool) -> None:
    """Change a queued item's priority."""
    number = priority_from(priority)
    _change_each(
        target,
        (item_id,),
        lambda api, one: api.set_priority(one, number),
        as_json=as_json,
    )


@click.command("explain", epilog=example("launch explain k3v9xw2m7qpa"))
@click.argument("item_id", metavar="ID")
@on_server
@json_option
def explain(target: Target, item_id: str, *, as_json: bool) -> None:
    """Why an item waits or why it failed, and what to do.

    Of an item that ended badly, also the step at which it did, and the last lines of its log.
    """

    async def work(api: "UserOperations") -> tuple[Json, Json]:
        found = await api.item(item_id)
        return found, await _end_of(api, found)

    found, end = target.call(work)
    if as_json:
        kept = ("id", "phase", "lostContact", "message", "exitCode", "explanation")
        print_json({key: found[key] for key in kept} | end)
        return
    for line in explanation_lines(found, end):
        print(escape_control_characters(line))


async def _end_of(api: "UserOperations", found: Json) -> Json:
    """`step`, and `log` with `channel` and `lines`, of an item that ended badly."""
    if not _over(found) or found["phase"] == Phase.SUCCEEDED:
        return {}
    reached = [each for each in found["events"] if each["attempt"] == found["attempt"]]
    held = [Phase(each["phase"]) for each in reached if Phase(each["phase"]) not in TERMINAL]
    step = held[-1] if held else Phase.QUEUED
    attempt = next((a for a in found["attempts"] if a["number"] == found["attempt"]), None)
    sizes = {} if attempt is None else {
        "job": int(attempt["jobLogBytes"]), "setup": int(attempt["setupLogBytes"]),
    }  # fmt: skip
    channel = next((name for name, size in sizes.items() if size), None)
    if channel is None:
        return {"step": step.word, "log": None}
    offset = max(0, sizes[channel] - _TAIL_BYTES)
    pieces = [piece async for piece in api.log(found["id"], found["attempt"], channel, offset)]
    lines = plain_lines(b"".join(pieces))
    whole = lines if offset == 0 else lines[1:]
    shown = [line for line in whole if line][-_TAIL_LINES:]
    return {"step": step.word, "log": {"channel": channel, "lines": shown}}


def explanation_lines(found: Json, end: Json) -> list[str]:
    """State, cause, details, end of the log, remedy; lines that repeat each other are left out."""
    explanation = found["explanation"]
    state = f"{found['id']} ({found['displayName']}): {phase_word(found)}, {explanation['cause']}"
    lines = [state, explanation["summary"]]
    over = Phase(found["phase"]) in TERMINAL
    message = str(found["message"] or "") if over else ""
    summary = _plain(explanation["summary"])
    lines += [line for line in message.splitlines() if _plain(line) not in summary]
    known = {_plain(line) for line in message.splitlines()}
    details = [line for detail in explanation["details"] for line in detail.splitlines()]
    lines += [f"  {line}" for line in details if _plain(line) not in known]
    if end:
        lines.append(f"It ended while it was {end['step']}.")
    if end.get("log"):
        lines.append(f"The end of its {end['log']['channel']} log:")
        lines += [f"  | {line}" for line in end["log"]["lines"]]
    return [*lines, f"What to do: {explanation['remedy']}"]


def _plain(text: str) -> str:
    return text.strip().rstrip(".").lower()


def _change_each(
    target: Target,
    item_ids: tuple[str, ...],
    change: "Callable[[UserOperations, str], Awaitable[Json]]",
    *,
    as_json: bool,
) -> None:
    """Change several items; errors are printed, and the last one sets the exit code."""
    refused: list[LaunchError] = []

    async def work(api: "UserOperations") -> list[Json]:
        changed = []
        for one in item_ids:
            try:
                changed.append(await change(api, one))
            except (
                ConflictError,
                InvalidInputError,
                NotFoundError,
                PermissionDeniedError,
            ) as error:
                refused.append(error)
        return changed

    _show_changed(target.call(work), many=len(item_ids) > 1, as_json=as_json)
    for error in refused[:-1]:
        show_error(error)
    if refused:
        raise refused[-1]


def _show_changed(changed: list[Json], *, many: bool, as_json: bool) -> None:
    if as_json and (many or changed):
        print_json(changed if many else changed[0])
        return
    for each in changed:
        asked = ", stop requested" if each["stopRequested"] and not _over(each) else ""
        priority = PRIORITIES[each["priority"]]
        print(f"{each['id']}: {phase_word(each)} on `{each['queueName']}`, {priority}{asked}")


async def _last_attempt(api: "UserOperations", item_id: str, *, follow: bool) -> int:
    """The newest attempt; with `follow`, wait until there is one."""
    while True:
        found = await api.item_summary(item_id)
        if found["attempts"]:
            return max(int(each["number"]) for each in found["attempts"])
        if not follow or _over(found):
            message = f"The item `{item_id}` has no log yet; phase: {phase_word(found)}."
            raise NotFoundError(message, hint=f"See `launch explain {item_id}`, or add --follow.")
        await asyncio.sleep(0.5)


def _why_empty(found: Json, channel: str) -> str:
    """The message that is printed in place of an empty log."""
    message = f"launch: this log is empty; phase: {phase_word(found)}."
    if channel == "job" and any(int(each["setupLogBytes"]) for each in found["attempts"]):
        message += " `--channel setup` shows the output of fetching and building."
    return message


def _over(found: Json) -> bool:
    return Phase(found["phase"]) in TERMINAL


def _phases(text: str) -> tuple[str, ...]:
    """Names of the phases that a value of `--phase` selects."""
    phases = phases_named(text)
    if not phases:
        message = f"'{text}' is not a phase."
        raise InvalidInputError(message, hint=did_you_mean(text, PHASE_WORDS, "phase"))
    return tuple(phase.value for phase in phases)


def result_of(found: Json) -> str:
    """`exit 0`, `exit 1`, else the cause; of an item that has not ended, its activity.

    The exit code counts only where the job ended by itself, not when it was stopped.
    """
    if not _over(found):
        return found["activity"] or ""
    code, cause = found["exitCode"], found["cause"]
    by_itself = cause in {None, Cause.SUCCEEDED, Cause.RUN_EXIT_CODE}
    return f"exit {code}" if code is not None and by_itself else str(cause or "")


_COLUMNS: Final[Columns] = {
    "ID": lambda each: each["id"],
    "NAME": lambda each: each["displayName"],
    "JOB": lambda each: (each["job"] or "").rpartition("/")[2],
    "QUEUE": lambda each: each["queueName"],
    "PHASE": phase_word,
    "PRIORITY": lambda each: PRIORITIES[each["priority"]],
    "CREATED": lambda each: format_age(each["createdAt"]),
    "RAN": lambda each: format_elapsed(each["startedAt"], each["finishedAt"]),
    "RESULT": result_of,
}


def _pod_line(pod: Json) -> str:
    shown = f"{pod.get('name')}  {pod.get('node') or 'no node'}  {pod.get('state')}"
    return "; ".join([shown, *map(str, pod.get("details") or ())])


def _details(found: Json) -> list[tuple[str, object]]:
    history = [
        f"{each['at']}  {Phase(each['phase']).word:<10} attempt {each['attempt']}  "
        f"{each['actor'] or ''}  {each['text'] or ''}".rstrip()
        for each in found["events"]
    ]
    explanation = found["explanation"]
    reported = found["facts"] or {}
    facts = [f"{key}: {value}" for key, value in reported.items() if key != "pods"]
    pods = [_pod_line(pod) for pod in reported.get("pods") or () if isinstance(pod, dict)]
    return [
        ("id", found["id"]),
        ("name", found["displayName"]),
        ("job", found["runSpec"].get("job")),
        ("queue", f"{found['entityName']}/{found['queueName']}"),
        ("project", found["projectName"]),
        ("phase", phase_word(found)),
        ("activity", found["activity"] if not _over(found) else None),
        ("cause", explanation["cause"]),
        ("reason", found["message"] or explanation["summary"]),
        ("exit code", found["exitCode"]),
        ("run", found["runName"]),
        ("agent", found["agentName"]),
        ("attempt", found["attempt"] or None),
        ("priority", PRIORITIES[found["priority"]]),
        ("created", f"{format_age(found['createdAt'])} by {found['author'] or 'unknown'}"),
        ("ran", format_elapsed(found["startedAt"], found["finishedAt"])),
        ("pods", "\n".join(pods)),
        ("facts", "\n".join(facts)),
        ("warnings", "\n".join(found["warnings"])),
        ("spec", json.dumps(found["runSpec"], indent=2)),
        ("history", "\n".join(history)),
    ]
