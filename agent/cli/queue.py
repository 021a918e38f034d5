"""`launch queue`: create, list, show, update, delete, pause, resume."""

from pathlib import Path
from typing import Any

import click

from agent.cli.connect import Target, json_option, on_server
from agent.cli.output import ago, print_json, print_pairs, print_table
from agent.cli.queue_file import QueueFile, read_queue_file
from agent.model.errors import InvalidInputError

Json = dict[str, Any]


@click.group()
def queue() -> None:
    """Create, list and steer queues."""


def _template_options(command: Any) -> Any:
    options = (
        click.option("-r", "--resource", help="Runner: local-container or local-process."),
        click.option(
            "-f", "--file", "file", type=click.Path(path_type=Path),
            help="YAML with resource, resource_args, template_variables, prioritization.",
        ),
        click.option(
            "--config", "config", metavar="FILE|JSON",
            help='The template alone: `{"resource_args": {...}}`.',
        ),
        click.option(
            "--prioritization/--no-prioritization", default=None,
            help="Whether priorities count; on by default.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@queue.command("create")
@click.argument("name", required=False)
@_template_options
@on_server
@json_option
def create(
    target: Target,
    name: str | None,
    resource: str | None,
    file: Path | None,
    config: str | None,
    *,
    prioritization: bool | None,
    as_json: bool,
) -> None:
    """Create a queue."""
    described = read_queue_file(file, config, resource, prioritization=prioritization)
    name = name or described.name
    if not name:
        message = "The queue needs a name."
        raise InvalidInputError(message, hint="Write `launch queue create NAME`, or `name:` in -f.")
    fields = {"prioritizationMode": "V0", **_fields(described, name)}
    if "resource" not in fields:
        message = f"The queue `{name}` needs a resource: what its jobs run on."
        raise InvalidInputError(message, hint="Add --resource local-container or local-process.")
    made = target.call(lambda console: console.save_queue("CREATE", **fields))
    _report(made, "Created", as_json=as_json)


@queue.command("update")
@click.argument("name")
@_template_options
@on_server
@json_option
def update(
    target: Target,
    name: str,
    resource: str | None,
    file: Path | None,
    config: str | None,
    *,
    prioritization: bool | None,
    as_json: bool,
) -> None:
    """Change a queue; what is not given stays."""
    described = read_queue_file(file, config, resource, prioritization=prioritization)
    if not described.fields():
        message = f"Nothing was said about the queue `{name}` that could be changed."
        raise InvalidInputError(message, hint="Give --resource, --config, --prioritization or -f.")

    async def work(console: Any) -> Json:
        known = await console.queue(name)
        now = {
            "resource": known["resource"],
            "config": known["config"],
            "prioritizationMode": known["prioritizationMode"],
            "templateVariables": _variables(known),
        }
        changed: Json = await console.save_queue("UPDATE", **{**now, **_fields(described, name)})
        return changed

    _report(target.call(work), "Updated", as_json=as_json)


@queue.command("list")
@on_server
@json_option
def list_queues(target: Target, *, as_json: bool) -> None:
    """List queues."""
    queues = target.call(lambda console: console.queues())
    if as_json:
        print_json(queues)
        return
    print_table(
        ("NAME", "RESOURCE", "STATE", "WAITING", "RUNNING", "AGENTS"),
        [_row(each) for each in queues],
        "No queues yet; `launch queue create NAME --resource local-container` makes one.",
    )


@queue.command("show")
@click.argument("name")
@on_server
@json_option
def show(target: Target, name: str, *, as_json: bool) -> None:
    """Show one queue with its template and agents."""
    found = target.call(lambda console: console.queue(name))
    if as_json:
        print_json(found)
        return
    print_pairs(_details(found))


@queue.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Stop its items first.")
@on_server
def delete(target: Target, name: str, *, force: bool) -> None:
    """Delete a queue."""

    async def work(console: Any) -> None:
        await console.queue(name)
        await console.delete_queue(name, force=force)

    target.call(work)
    print(f"Deleted the queue `{name}`.")


@queue.command("pause")
@click.argument("name")
@on_server
@json_option
def pause(target: Target, name: str, *, as_json: bool) -> None:
    """Accept items, but hand none out."""
    _report(_pause(target, name, paused=True), "Paused", as_json=as_json)


@queue.command("resume")
@click.argument("name")
@on_server
@json_option
def resume(target: Target, name: str, *, as_json: bool) -> None:
    """Hand out items again."""
    _report(_pause(target, name, paused=False), "Resumed", as_json=as_json)


def _pause(target: Target, name: str, *, paused: bool) -> Json:
    async def work(console: Any) -> Json:
        await console.queue(name)
        changed: Json = await console.pause_queue(name, paused=paused)
        return changed

    return target.call(work)


def _fields(described: QueueFile, name: str) -> Json:
    return {"name": name, **described.fields()}


def _variables(known: Json) -> Json | None:
    import json

    return {
        each["name"]: {
            "schema": json.loads(each["schema"]),
            "description": each["description"] or "",
        }
        for each in known["templateVariables"]
    } or None


def _report(made: Json, verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
    else:
        print(f"{verb} the queue `{made['name']}` for {made['resource']}.")


def _row(each: Json) -> tuple[object, ...]:
    counts = {entry["phase"]: entry["count"] for entry in each["counts"]}
    running = sum(counts.get(phase, 0) for phase in ("LEASED", "PREPARING", "PERMITTED", "STARTED"))
    return (
        each["name"],
        each["resource"],
        "paused" if each["paused"] else "open",
        counts.get("QUEUED", 0),
        running,
        sum(not agent["lost"] for agent in each["agents"]),
    )


def _details(found: Json) -> list[tuple[str, object]]:
    import json

    counts = ", ".join(f"{each['count']} {each['phase'].lower()}" for each in found["counts"])
    agents = [
        f"{each['name']} ({'lost' if each['lost'] else each['agentStatus']}, "
        f"heartbeat {ago(each['heartbeatAt'])})"
        for each in found["agents"]
    ]
    variables = [
        f"{each['name']} {each['schema']} {each['description'] or ''}".rstrip()
        for each in found["templateVariables"]
    ]
    return [
        ("name", found["name"]),
        ("entity", found["entityName"]),
        ("resource", found["resource"]),
        ("state", "paused" if found["paused"] else "open"),
        ("priorities", "count" if found["prioritizationMode"] == "V0" else "are ignored"),
        ("created", f"{ago(found['createdAt'])} by {found['createdBy']}"),
        ("items", counts or "none"),
        ("agents", "\n".join(agents) or "none"),
        ("variables", "\n".join(variables)),
        ("template", json.dumps(found["config"], indent=2)),
    ]
