"""`launch queue`: create, list, show, update, delete, pause, resume; queues described in files."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click

from agent.cli.options import Target, json_option, mapping_from, on_server, with_options
from agent.cli.output import ago, print_json, print_pairs, print_remark, print_table
from agent.config.document import Document, read_document
from agent.model.errors import InvalidInputError
from agent.model.names import did_you_mean

Json = dict[str, Any]


_KEYS: Final = (
    "name",
    "resource",
    "resource_args",
    "config",
    "template_variables",
    "prioritization",
)


@dataclass(frozen=True, slots=True)
class QueueFile:
    """A queue as it was described; `None` means not given."""

    name: str | None = None
    resource: str | None = None
    config: Json | None = None
    template_variables: Json | None = None
    prioritization: bool | None = None

    def fields(self) -> Json:
        """Fields of the schema's `SaveLaunchQueueInput`, without those that were not given."""
        mode = None if self.prioritization is None else "V0" if self.prioritization else "DISABLED"
        every = {
            "resource": self.resource,
            "config": self.config,
            "templateVariables": self.template_variables,
            "prioritizationMode": mode,
        }
        return {key: value for key, value in every.items() if value is not None}


@click.group()
def queue() -> None:
    """Create, list, change and pause queues."""


_TEMPLATE_OPTIONS: Final = (
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
        help="Whether items have priorities; on by default.",
    ),
)  # fmt: skip


@queue.command("create")
@click.argument("name", required=False)
@with_options(_TEMPLATE_OPTIONS)
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
    _print_warnings(made)
    _report(made, "Created", as_json=as_json)


@queue.command("update")
@click.argument("name")
@with_options(_TEMPLATE_OPTIONS)
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
    """Change a queue; what is not given stays as it is."""
    described = read_queue_file(file, config, resource, prioritization=prioritization)
    if not described.fields():
        message = f"No change of the queue `{name}` is given."
        raise InvalidInputError(message, hint="Give --resource, --config, --prioritization or -f.")

    async def work(console: Any) -> Json:
        known = await console.queue(name)
        now = {
            "resource": known["resource"],
            "config": known["config"],
            "prioritizationMode": known["prioritizationMode"],
            "templateVariables": _variables(known),
        }
        saved: Json = await console.save_queue("UPDATE", **{**now, **_fields(described, name)})
        return saved

    changed = target.call(work)
    _print_warnings(changed)
    _report(changed, "Updated", as_json=as_json)


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
    """Stop giving items to agents; items can still be submitted."""
    _report(_pause(target, name, paused=True), "Paused", as_json=as_json)


@queue.command("resume")
@click.argument("name")
@on_server
@json_option
def resume(target: Target, name: str, *, as_json: bool) -> None:
    """Give items to agents again."""
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
    return {
        each["name"]: {
            "schema": json.loads(each["schema"]),
            "description": each["description"] or "",
        }
        for each in known["templateVariables"]
    } or None


def _print_warnings(saved: Json) -> None:
    for warning in saved["warnings"]:
        print_remark(f"launch: {warning}")


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
        ("priorities", "on" if found["prioritizationMode"] == "V0" else "off"),
        ("created", f"{ago(found['createdAt'])} by {found['createdBy']}"),
        ("items", counts or "none"),
        ("agents", "\n".join(agents) or "none"),
        ("variables", "\n".join(variables)),
        ("template", json.dumps(found["config"], indent=2)),
    ]


def read_queue_file(
    file: Path | None, config: str | None, resource: str | None, *, prioritization: bool | None
) -> QueueFile:
    """A file, then the flags on top of it.

    Raises:
        InvalidInputError: names file, line and key.
    """
    described = _queue_of(read_document(file)) if file else QueueFile()
    if config is not None:
        described = replace(described, config=mapping_from(config, "--config"))
    if resource is not None:
        described = replace(described, resource=resource)
    if prioritization is not None:
        described = replace(described, prioritization=prioritization)
    return described


def _queue_of(document: Document) -> QueueFile:
    for key in document.data:
        if key not in _KEYS:
            message = f"{document.place((key,))}: unknown key `{key}`."
            raise InvalidInputError(message, hint=did_you_mean(key, _KEYS, "key"))
    config = _config(document)
    arguments = (config or {}).get("resource_args")
    resource = _text(document, "resource")
    if resource is None and isinstance(arguments, dict) and len(arguments) == 1:
        resource = next(iter(arguments))
    return QueueFile(
        name=_text(document, "name"),
        resource=resource,
        config=config,
        template_variables=_mapping(document, "template_variables"),
        prioritization=_switch(document, "prioritization"),
    )


def _config(document: Document) -> Json | None:
    """The template: W&B's whole `config`, or its one part `resource_args`."""
    whole, arguments = _mapping(document, "config"), _mapping(document, "resource_args")
    if whole is not None and arguments is not None:
        message = f"{document.place(('resource_args',))}: `resource_args` is given twice."
        raise InvalidInputError(message, hint="Keep it here, or inside `config`.")
    return whole if arguments is None else {"resource_args": arguments}


def _text(document: Document, key: str) -> str | None:
    value = document.data.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong(document, key, "a string")
    return value


def _mapping(document: Document, key: str) -> Json | None:
    value = document.data.get(key)
    if value is not None and not isinstance(value, dict):
        raise _wrong(document, key, "a mapping of `key: value`")
    return value


def _switch(document: Document, key: str) -> bool | None:
    value = document.data.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(document, key, "`true` or `false`")
    return value


def _wrong(document: Document, key: str, form: str) -> InvalidInputError:
    seen = document.data[key]
    message = f"{document.place((key,))}: `{key}`: seen `{seen}`; expected {form}."
    return InvalidInputError(message)
