"""Composition of a launch spec from its layers: queue template, job, submitter. Pure.

A queue's template (`config`) may contain `{{variable}}` placeholders; each variable has a JSON
schema that checks the value which a submitter gives.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.control.services.schema_checks import Check, Passed
from agent.control.store.queues import QueueRecord
from agent.model.capacity import Demand
from agent.model.errors import InvalidInputError
from agent.model.job.entry_point import shell_remark
from agent.model.json_schema import UnusableSchemaError, check_schema
from agent.model.json_values import check_value
from agent.model.names import CONTAINERS, KUBERNETES, PRIORITIES, PROCESSES, did_you_mean
from agent.model.spec import Json, LaunchSpec, parse_spec

DEFAULT_PRIORITY: Final = 2
_KNOWN_RESOURCES: Final = (CONTAINERS, PROCESSES, KUBERNETES)

_RESOURCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PLACEHOLDER: Final = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*\}\}")
_SCHEMA_HINT: Final = 'Write {"name": {"schema": {"type": "integer", "maximum": 8}}}.'


@dataclass(frozen=True, slots=True)
class Composed:
    """A submission, merged with its job and its queue's template."""

    spec: LaunchSpec
    run_spec: Json
    #: What each layer set: `queue`, `job`, `submitter`.
    layers: dict[str, Json]
    resource: str | None
    demand: Demand
    warnings: tuple[str, ...]


def compose(
    queue: QueueRecord,
    submitted: Json,
    values: Any,
    identity: Json,
    passed: Passed,
    job: Json | None = None,
) -> Composed:
    """Render the template, merge the job and the submitter's values over it, and parse.

    `identity` (entity, project, author) is decided by the control plane, and so is the job's
    version: an alias that the submitter named is replaced by it. The queue's resource wins
    over the submitter's: an administrator chose it, and W&B's clients always send one.

    Raises:
        NotCheckedError: the values of template variables were not checked yet.
        InvalidInputError: template variables or spec; names path, value and rule.
    """
    resolved = resolve_values(queue.template_variables, values)
    passed.require(variable_checks(queue.template_variables, resolved))
    template = render(queue.config, resolved)
    asked = submitted.get("resource")
    if asked is not None:
        check_resource(str(asked))
    resource = queue.resource or asked
    layer = job or {}
    pinned = {key: layer[key] for key in ("job",) if key in layer}
    defaults = merge(template, layer)
    merged = {**merge(defaults, submitted), **identity, **pinned, "resource": resource}
    spec = parse_spec(merged)
    return Composed(
        spec=spec,
        run_spec=merged,
        layers={"queue": template, "job": layer, "submitter": submitted},
        resource=resource,
        demand=spec.demand(resource or ""),
        warnings=_warnings(queue, resource, submitted),
    )


def merge(base: Json, over: Json) -> Json:
    """Merge objects key by key, replace anything else; `None` keeps the value of `base`."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge(below, value)
        elif value is not None or key not in merged:
            merged[key] = value
    return merged


def _warnings(queue: QueueRecord, resource: str | None, submitted: Json) -> tuple[str, ...]:
    """What the submitter set without effect, or for a plugin's runner only."""
    warnings = [] if queue.resource else list(resource_warnings(resource))
    asked = submitted.get("resource")
    if asked is not None and queue.resource not in {None, asked}:
        warnings.append(
            f"The queue runs {queue.resource}; the submitted resource {asked} was not used."
        )
    given = submitted.get("resource_args") or {}
    for name in sorted(name for name, arguments in given.items() if arguments):
        unused = name not in _KNOWN_RESOURCES or not given.get(resource)
        if resource is not None and name != resource and unused:
            known = "" if name in _KNOWN_RESOURCES else f" Built in are {_listed_resources()}."
            warnings.append(
                f"The job runs on {resource}; the submitted arguments for {name} were not "
                f"used.{known}"
            )
        elif resource is None:
            warnings += resource_warnings(name)
    words = (submitted.get("overrides") or {}).get("entry_point")
    remark = shell_remark(words) if isinstance(words, list) else None
    return (*warnings, *([remark] if remark else []))


def check_priority(queue: QueueRecord, asked: int | None) -> int:
    """The priority of a new item.

    Raises:
        InvalidInputError: out of range, or the queue has no priorities and this is not the
            default.
    """
    priority = DEFAULT_PRIORITY if asked is None else asked
    if not 0 <= priority < len(PRIORITIES):
        known = ", ".join(f"{number} {name}" for number, name in enumerate(PRIORITIES))
        raise InvalidInputError(f"There is no priority {priority}.", hint=f"Use {known}.")
    if queue.prioritization == "DISABLED" and priority != DEFAULT_PRIORITY:
        raise InvalidInputError(
            f"Queue '{queue.name}' has no priorities, and `{PRIORITIES[priority]}` was asked for.",
            hint="Leave the priority out, or let an administrator switch priorities on.",
        )
    return priority


def check_resource(name: str, path: str = "resource") -> str:
    """The name of a resource, known or a plugin's.

    Raises:
        InvalidInputError: not a name.
    """
    if not _RESOURCE.fullmatch(name):
        raise InvalidInputError(
            f"`{path}`: '{name}' cannot be the name of a resource.",
            hint=f"Our agents run {', '.join(_KNOWN_RESOURCES)}; plugins may add others.",
        )
    return name


def resource_warnings(resource: str | None) -> tuple[str, ...]:
    """A sentence about a resource that only a plugin's runner could run."""
    if resource is None or resource in _KNOWN_RESOURCES:
        return ()
    similar = did_you_mean(resource, _KNOWN_RESOURCES, "resource")
    return (
        f"No built-in runner runs '{resource}': its jobs wait for an agent that has a plugin "
        f"for it. Built in are {_listed_resources()}. {similar}".rstrip(),
    )


def _listed_resources() -> str:
    return ", ".join(f"'{name}'" for name in _KNOWN_RESOURCES)


def parse_config(raw: Any, resource: str | None) -> Json:
    """A queue's template.

    Raises:
        InvalidInputError: names the path and the value there.
    """
    if not isinstance(raw, dict):
        raise InvalidInputError(f"`config` is a {type(raw).__name__}, not an object.")
    arguments = raw.get("resource_args", {})
    if not isinstance(arguments, dict):
        seen = type(arguments).__name__
        raise InvalidInputError(f"`config.resource_args` is a {seen}, not an object.")
    check_value(raw, "`config`")
    for name, values in arguments.items():
        check_resource(name, "config.resource_args")
        if not isinstance(values, dict):
            seen = type(values).__name__
            raise InvalidInputError(f"`config.resource_args.{name}` is a {seen}, not an object.")
    if resource is not None and arguments and resource not in arguments:
        raise InvalidInputError(
            f"`config.resource_args` has {', '.join(map(repr, arguments))}, "
            f"and the queue's resource is {resource!r}.",
            hint=f"Put the arguments below `resource_args.{resource}`.",
        )
    return raw


def parse_variables(raw: Any) -> dict[str, Json]:
    """Template variables as they are stored: name → `{"schema": …, "description": …}`.

    Raises:
        InvalidInputError: names the variable and what is wrong with its schema.
    """
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        seen = type(raw).__name__
        raise InvalidInputError(f"`templateVariables` is a {seen}.", hint=_SCHEMA_HINT)
    check_value(raw, "`templateVariables`")
    return {str(name): _parse_variable(str(name), value) for name, value in raw.items()}


def _parse_variable(name: str, raw: Any) -> Json:
    if not isinstance(raw, dict) or not isinstance(raw.get("schema"), dict):
        raise InvalidInputError(f"`templateVariables.{name}` has no `schema`.", hint=_SCHEMA_HINT)
    try:
        check_schema(raw["schema"])
    except UnusableSchemaError as error:
        path = ".".join(["templateVariables", name, "schema", *map(str, error.place)])
        raise InvalidInputError(f"`{path}`: {error.reason}", hint=error.hint) from None
    return raw


def template_problems(config: Json, variables: Mapping[str, Json]) -> tuple[str, ...]:
    """Placeholders without a variable, and variables that no placeholder uses."""
    used = set(placeholders(config))
    undeclared = [
        f"`{{{{{name}}}}}` is used, and `templateVariables` does not declare it."
        for name in sorted(used - set(variables))
    ]
    unused = [
        f"`templateVariables.{name}` is declared, and no `{{{{{name}}}}}` uses it."
        for name in variables
        if name not in used
    ]
    return (*undeclared, *unused)


def placeholders(value: Any) -> Iterator[str]:
    """The names of all `{{name}}` in the texts of a template."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from placeholders(inner)
    elif isinstance(value, str):
        yield from _PLACEHOLDER.findall(value)


def resolve_values(variables: Mapping[str, Json], given: Any) -> Json:
    """The value of every variable: as given, else the schema's default.

    Raises:
        InvalidInputError: names the variable that is not known, or has no value.
    """
    values = given or {}
    if not isinstance(values, dict):
        seen = type(values).__name__
        raise InvalidInputError(f"Template variables are a {seen}, not an object.")
    for name in values:
        if name not in variables:
            hint = did_you_mean(name, variables, "template variable")
            raise InvalidInputError(f"The queue has no template variable '{name}'.", hint=hint)
    return {name: _value(name, one["schema"], values) for name, one in variables.items()}


def variable_checks(variables: Mapping[str, Json], values: Json) -> Iterator[Check]:
    """The checks of the values of template variables."""
    for name, value in values.items():
        whose = f"The queue's schema of template variable `{name}`"
        hint = "Let an administrator of the queue change it."
        yield Check("Template variable ", name, whose, hint, variables[name]["schema"], value)


def _value(name: str, schema: Json, values: Json) -> Any:
    if name in values:
        return values[name]
    if "default" in schema:
        return schema["default"]
    raise InvalidInputError(
        f"Template variable `{name}` has no value and no default.",
        hint=f"Give one: `--set-var {name}=…`.",
    )


def render(value: Any, values: Mapping[str, Any]) -> Any:
    """Replace placeholders; a text that is exactly one placeholder takes the value's type."""
    if isinstance(value, dict):
        return {key: render(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [render(inner, values) for inner in value]
    return _render_text(value, values) if isinstance(value, str) else value


def _render_text(text: str, values: Mapping[str, Any]) -> Any:
    whole = _PLACEHOLDER.fullmatch(text)
    if whole and whole[1] in values:
        return values[whole[1]]

    def replacement(match: re.Match[str]) -> str:
        value = values.get(match[1], match[0])
        return value if isinstance(value, str) else json.dumps(value)

    return _PLACEHOLDER.sub(replacement, text)
