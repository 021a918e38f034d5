"""`launch queue`: create, list, show, update, delete, pause, resume; queues described in files."""

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any, Final

import click

from agent.cli.options import (
    Json,
    Target,
    example,
    json_option,
    mapping_from,
    on_server,
    with_options,
)
from agent.cli.output import Columns, format_age, print_json, print_list, print_pairs, print_stderr
from agent.config.document import Document, read_document
from agent.model.errors import InvalidInputError
from agent.model.names import did_you_mean
from agent.model.phase import Phase

#: Keys of a queue file.
_KEYS: Final = (
    "name", "resource", "resource_args", "config", "template_variables", "prioritization",
)  # fmt: skip
_MODES: Final[dict[bool | None, str]] = {True: "V0", False: "DISABLED"}
_FORMS: Final = {str: "a string", dict: "a mapping of `key: value`", bool: "`true` or `false`"}


@click.group()
def queue() -> None:
    """Create, list, change and pause queues."""


_TEMPLATE_OPTIONS: Final = (
    click.option("-r", "--resource", help="Runner: local-container, local-process or kubernetes."),
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


@queue.command(
    "create",
    epilog=example(
        "launch queue create gpu --resource local-container", "launch queue create -f queue.yaml"
    ),
)
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
    described = _described(file, config, resource, prioritization=prioritization)
    name = name or described.get("name")
    if not name:
        message = "The queue needs a name."
        raise InvalidInputError(message, hint="Write `launch queue create NAME`, or `name:` in -f.")
    fields = {"prioritizationMode": "V0", **described, "name": name}
    if "resource" not in fields:
        message = f"The queue `{name}` needs a resource: what its jobs run on."
        hint = "Add --resource local-container, local-process or kubernetes."
        raise InvalidInputError(message, hint=hint)
    made = target.call(lambda api: api.save_queue("CREATE", **fields))
    _print_warnings(made)
    _report(made, "Created", as_json=as_json)
    if not as_json and all(each["lost"] for each in made["agents"]):
        flag = f"--queue {shlex.quote(name)}"
        print(
            f"  No agent serves it yet: start `launch-agent {flag}{target.entity_flag}`, or stop "
            f"one that runs and start it with a further `{flag}`."
        )


@queue.command("update", epilog=example("launch queue update gpu -f queue.yaml"))
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
    described = _described(file, config, resource, prioritization=prioritization)
    if not described.keys() - {"name"}:
        message = f"No change of the queue `{name}` is given."
        raise InvalidInputError(message, hint="Give --resource, --config, --prioritization or -f.")

    async def work(api: Any) -> Json:
        known = await api.queue(name)
        now = {key: known[key] for key in ("resource", "config", "prioritizationMode")}
        now["templateVariables"] = _variables(known)
        changed: Json = await api.save_queue("UPDATE", **now | described | {"name": name})
        return changed

    changed = target.call(work)
    _print_warnings(changed)
    _report(changed, "Updated", as_json=as_json)


@queue.command("list", epilog=example("launch queue list --json"))
@on_server
@json_option
def list_queues(target: Target, *, as_json: bool) -> None:
    """List queues."""
    queues = target.call(lambda api: api.queues())
    command = f"launch queue create NAME --resource local-container{target.entity_flag}"
    empty = f"No queues yet; `{command}` makes one."
    print_list(queues, _COLUMNS, empty, as_json=as_json)


@queue.command("show", epilog=example("launch queue show gpu"))
@click.argument("name")
@on_server
@json_option
def show(target: Target, name: str, *, as_json: bool) -> None:
    """Show one queue with its template and agents."""
    found = target.call(lambda api: api.queue(name))
    if as_json:
        print_json(found)
        return
    print_pairs(_details(found))


@queue.command("delete", epilog=example("launch queue delete gpu --force"))
@click.argument("name")
@click.option("--force", is_flag=True, help="Stop its items first.")
@on_server
def delete(target: Target, name: str, *, force: bool) -> None:
    """Delete a queue."""

    async def work(api: Any) -> None:
        await api.queue(name)
        await api.delete_queue(name, force=force)

    target.call(work)
    print(f"Deleted the queue `{name}`.")


@queue.command("pause", epilog=example("launch queue pause gpu"))
@click.argument("name")
@on_server
@json_option
def pause(target: Target, name: str, *, as_json: bool) -> None:
    """Stop giving items to agents; items can still be submitted."""
    _report(_pause(target, name, paused=True), "Paused", as_json=as_json)


@queue.command("resume", epilog=example("launch queue resume gpu"))
@click.argument("name")
@on_server
@json_option
def resume(target: Target, name: str, *, as_json: bool) -> None:
    """Give items to agents again."""
    _report(_pause(target, name, paused=False), "Resumed", as_json=as_json)


def _pause(target: Target, name: str, *, paused: bool) -> Json:
    async def work(api: Any) -> Json:
        await api.queue(name)
        changed: Json = await api.pause_queue(name, paused=paused)
        return changed

    return target.call(work)


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
        print_stderr(f"launch: {warning}")


def _report(made: Json, verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
    else:
        print(f"{verb} the queue `{made['name']}` for {made['resource']}.")


def _count(each: Json, word: str) -> int:
    """Items of a queue in the phases that are shown as one word."""
    return sum(entry["count"] for entry in each["counts"] if Phase(entry["phase"]).word == word)


_COLUMNS: Final[Columns] = {
    "NAME": lambda each: each["name"],
    "RESOURCE": lambda each: each["resource"],
    "STATE": lambda each: "paused" if each["paused"] else "open",
    "WAITING": lambda each: _count(each, "waiting"),
    "PREPARING": lambda each: _count(each, "preparing"),
    "PENDING": lambda each: _count(each, "pending"),
    "RUNNING": lambda each: _count(each, "running"),
    "AGENTS": lambda each: sum(not agent["lost"] for agent in each["agents"]),
}


def _details(found: Json) -> list[tuple[str, object]]:
    counts = Counter[str]()
    for each in found["counts"]:
        counts[Phase(each["phase"]).word] += each["count"]
    agents = [
        f"{each['name']} ({'lost' if each['lost'] else each['agentStatus']}, "
        f"heartbeat {format_age(each['heartbeatAt'])})"
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
        ("created", f"{format_age(found['createdAt'])} by {found['createdBy']}"),
        ("items", ", ".join(f"{count} {word}" for word, count in counts.items()) or "none"),
        ("agents", "\n".join(agents) or "none"),
        ("variables", "\n".join(variables)),
        ("template", json.dumps(found["config"], indent=2)),
    ]


def _described(
    file: Path | None, config: str | None, resource: str | None, *, prioritization: bool | None
) -> Json:
    """Fields of the schema's `SaveLaunchQueueInput` that a file or, before it, an option gives.

    Raises:
        InvalidInputError: names file, line and key.
    """
    described = _fields_of(read_document(file)) if file else {}
    options = {
        "config": None if config is None else mapping_from(config, "--config"),
        "resource": resource,
        "prioritizationMode": _MODES.get(prioritization),
    }
    given = (*described.items(), *options.items())
    return {key: value for key, value in given if value is not None}


def _fields_of(document: Document) -> Json:
    for key in document.data:
        if key not in _KEYS:
            message = f"{document.location((key,))}: unknown key `{key}`."
            raise InvalidInputError(message, hint=did_you_mean(key, _KEYS, "key"))
    name, resource = _value(document, "name", str), _value(document, "resource", str)
    config = _config(document)
    arguments = (config or {}).get("resource_args")
    if resource is None and isinstance(arguments, dict) and len(arguments) == 1:
        resource = next(iter(arguments))
    return {
        "name": name,
        "resource": resource,
        "config": config,
        "templateVariables": _value(document, "template_variables", dict),
        "prioritizationMode": _MODES.get(_value(document, "prioritization", bool)),
    }


def _config(document: Document) -> Json | None:
    """The template: W&B's whole `config`, or its one part `resource_args`."""
    whole: Json | None = _value(document, "config", dict)
    arguments = _value(document, "resource_args", dict)
    if whole is not None and arguments is not None:
        message = f"{document.location(('resource_args',))}: `resource_args` is given twice."
        raise InvalidInputError(message, hint="Keep it here, or inside `config`.")
    return whole if arguments is None else {"resource_args": arguments}


def _value(document: Document, key: str, kind: type) -> Any:
    """The value of a key of the file; `None` where it is not given."""
    value = document.data.get(key)
    if value is not None and not isinstance(value, kind):
        message = f"{document.location((key,))}: `{key}`: seen `{value}`; expected {_FORMS[kind]}."
        raise InvalidInputError(message)
    return value
