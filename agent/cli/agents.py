"""`launch agent`: list, show, drain, stop."""

from typing import TYPE_CHECKING, Final

import click

from agent.cli.options import Json, Target, example, json_option, on_server
from agent.cli.output import (
    Columns,
    format_age,
    format_elapsed,
    print_json,
    print_list,
    print_pairs,
)
from agent.model.errors import ConflictError
from agent.model.phase import Phase
from agent.model.units import format_size

if TYPE_CHECKING:
    from agent.remote.user_operations import UserOperations

#: W&B's status of an agent that has shut down.
_SHUT_DOWN: Final = "KILLED"


@click.group()
def agent() -> None:
    """List, show, drain and stop agents."""


@agent.command("list", epilog=example("launch agent list"))
@on_server
@json_option
def list_agents(target: Target, *, as_json: bool) -> None:
    """List agents, newest heartbeat first."""
    found = target.call(lambda api: api.agents())
    empty = "No agents; `launch-agent --queue default` starts one."
    print_list(found, _COLUMNS, empty, as_json=as_json)


@agent.command("show", epilog=example("launch agent show desk"))
@click.argument("name", metavar="NAME|ID")
@on_server
@json_option
def show(target: Target, name: str, *, as_json: bool) -> None:
    """Show one agent with its jobs."""
    found = target.call(lambda api: api.agent(name))
    if as_json:
        print_json(found)
        return
    print_pairs(_details(found))


@agent.command("drain", epilog=example("launch agent drain desk"))
@click.argument("name", metavar="NAME|ID")
@on_server
@json_option
def drain(target: Target, name: str, *, as_json: bool) -> None:
    """Let an agent finish its jobs, claim no more, and shut down."""
    _shut_down(target, name, "DRAIN", as_json=as_json)


@agent.command("stop", epilog=example("launch agent stop desk"))
@click.argument("name", metavar="NAME|ID")
@on_server
@json_option
def stop(target: Target, name: str, *, as_json: bool) -> None:
    """Let an agent stop its jobs and shut down."""
    _shut_down(target, name, "STOP", as_json=as_json)


def _shut_down(target: Target, name: str, mode: str, *, as_json: bool) -> None:
    async def work(api: "UserOperations") -> Json:
        found = await api.agent(name)
        if found["agentStatus"] == _SHUT_DOWN:
            message = f"The agent `{found['name']}` shut down {format_age(found['heartbeatAt'])}."
            raise ConflictError(message, hint="There is nothing to stop; `launch agent list`.")
        return await api.stop_agent(found["id"], mode)

    asked = target.call(work)
    if as_json:
        print_json(asked)
        return
    what = "finish its jobs" if mode == "DRAIN" else "stop its jobs"
    print(f"The agent `{asked['name']}` was asked to {what} and shut down.")
    if asked["lost"]:
        last = format_age(asked["heartbeatAt"])
        print(f"It is lost (last heartbeat {last}), and receives this when it comes back.")


def state_of(each: Json) -> str:
    """`lost`, `shut down`, `DRAINING`, else the status as the agent last reported it."""
    if each["lost"]:
        return "lost"
    if each["agentStatus"] == _SHUT_DOWN:
        return "shut down"
    return "DRAINING" if each["draining"] else str(each["agentStatus"])


def _conditions(each: Json) -> list[Json]:
    """Conditions that the agent reported; none of a lost one, whose report is outdated."""
    reported: list[Json] = each.get("conditions") or []
    return [] if each["lost"] else reported


_COLUMNS: Final[Columns] = {
    "ID": lambda each: each["id"],
    "NAME": lambda each: each["name"],
    "QUEUES": lambda each: ", ".join(each["queueNames"]),
    "STATE": lambda each: ", ".join([
        state_of(each),
        *(str(one["kind"]).replace("_", " ").lower() for one in _conditions(each)),
    ]),
    "RUNNING": lambda each: len(each["items"]),
    "HEARTBEAT": lambda each: format_age(each["heartbeatAt"]),
    "HOST": lambda each: each["hostname"],
}  # fmt: skip


def _details(found: Json) -> list[tuple[str, object]]:
    jobs = [
        f"{each['id']}  {each['name'] or ''}  {Phase(each['phase']).word}  "
        f"{format_elapsed(each['startedAt'], None)}  {each['activity'] or ''}".rstrip()
        for each in found["items"]
    ]
    problems = "\n".join(one["message"] for one in _conditions(found))
    return [
        ("id", found["id"]),
        ("name", found["name"]),
        ("host", found["hostname"]),
        ("version", found["version"]),
        ("state", state_of(found)),
        ("problem", problems),
        ("heartbeat", format_age(found["heartbeatAt"])),
        ("started", format_age(found["createdAt"])),
        ("queues", ", ".join(found["queueNames"])),
        ("offers", _capacity(found["capacity"] or {})),
        ("jobs", "\n".join(jobs) or "none"),
    ]


def _capacity(capacity: Json) -> str:
    memory = capacity.get("memory")
    slots = capacity.get("slots")
    parts = [
        f"{slots} jobs" if slots is not None else "any number of jobs",
        f"{capacity['cpus']:g} cores" if capacity.get("cpus") else "",
        f"{format_size(memory)} memory" if memory else "",
        f"GPUs {', '.join(capacity['gpus'])}" if capacity.get("gpus") else "",
        f"runs {', '.join(capacity['resources'])}" if capacity.get("resources") else "",
    ]
    return "; ".join(part for part in parts if part)
