"""Queue templates: `{{variable}}` placeholders and the JSON schemas of their values. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent.model.errors import InvalidInputError
from agent.model.names import did_you_mean
from agent.model.spec import Json

#: What W&B's clients know; the control plane keeps queues for runners it has none for itself.
RESOURCES: Final = ("local-container", "local-process", "kubernetes", "sagemaker", "gcp-vertex")

_PLACEHOLDER: Final = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*\}\}")
_SCHEMA_HINT: Final = 'Write {"name": {"schema": {"type": "integer", "maximum": 8}}}.'


def parse_variables(raw: Any) -> dict[str, Json]:
    """Template variables as they are kept: name → `{"schema": …, "description": …}`.

    Raises:
        InvalidInputError: names the variable and what is wrong with its schema.
    """
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        seen = type(raw).__name__
        raise InvalidInputError(f"`templateVariables` is a {seen}.", hint=_SCHEMA_HINT)
    return {str(name): _variable(str(name), value) for name, value in raw.items()}


def parse_config(raw: Any, resource: str | None) -> Json:
    """A queue's template.

    Raises:
        InvalidInputError: names the path and what stood there.
    """
    if not isinstance(raw, dict):
        raise InvalidInputError(f"`config` is a {type(raw).__name__}, not an object.")
    arguments = raw.get("resource_args", {})
    if not isinstance(arguments, dict):
        seen = type(arguments).__name__
        raise InvalidInputError(f"`config.resource_args` is a {seen}, not an object.")
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


def check_resource(name: str, path: str = "resource") -> str:
    """A resource that clients know.

    Raises:
        InvalidInputError: another one.
    """
    if name not in RESOURCES:
        hint = did_you_mean(name, RESOURCES, "resource")
        raise InvalidInputError(f"`{path}`: there is no resource '{name}'.", hint=hint)
    return name


def complaints(config: Json, variables: Mapping[str, Json]) -> tuple[str, ...]:
    """Placeholders without a variable, and variables that no placeholder uses."""
    used = set(_placeholders(config))
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


def resolve_values(variables: Mapping[str, Json], given: Any) -> Json:
    """The value of every variable: as given, else the schema's default.

    Raises:
        InvalidInputError: names variable, value and rule.
    """
    values = given or {}
    if not isinstance(values, dict):
        seen = type(values).__name__
        raise InvalidInputError(f"Template variables are a {seen}, not an object.")
    for name in values:
        if name not in variables:
            hint = did_you_mean(name, variables, "template variable")
            raise InvalidInputError(f"The queue has no template variable '{name}'.", hint=hint)
    resolved = {name: _value(name, one["schema"], values) for name, one in variables.items()}
    for name, value in resolved.items():
        _check(name, value, variables[name]["schema"])
    return resolved


def render(value: Any, values: Mapping[str, Any]) -> Any:
    """Replace placeholders; a text that is only one takes the value with its type."""
    if isinstance(value, dict):
        return {key: render(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [render(inner, values) for inner in value]
    return _render_text(value, values) if isinstance(value, str) else value


def _render_text(text: str, values: Mapping[str, Any]) -> Any:
    whole = _PLACEHOLDER.fullmatch(text)
    if whole and whole[1] in values:
        return values[whole[1]]

    def put(match: re.Match[str]) -> str:
        return _as_text(values[match[1]]) if match[1] in values else match[0]

    return _PLACEHOLDER.sub(put, text)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _placeholders(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _placeholders(inner)
    elif isinstance(value, str):
        yield from _PLACEHOLDER.findall(value)


def _variable(name: str, raw: Any) -> Json:
    if not isinstance(raw, dict) or not isinstance(raw.get("schema"), dict):
        raise InvalidInputError(f"`templateVariables.{name}` has no `schema`.", hint=_SCHEMA_HINT)
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(raw["schema"])
    except jsonschema.SchemaError as error:
        path = ".".join(["templateVariables", name, "schema", *map(str, error.absolute_path)])
        raise InvalidInputError(f"`{path}`: {error.message}.") from None
    return raw


def _value(name: str, schema: Json, values: Json) -> Any:
    if name in values:
        return values[name]
    if "default" in schema:
        return schema["default"]
    raise InvalidInputError(
        f"Template variable `{name}` has no value and no default.",
        hint=f"Give one: `--set-var {name}=…`.",
    )


def _check(name: str, value: Any, schema: Json) -> None:
    import jsonschema

    error = next(jsonschema.Draft202012Validator(schema).iter_errors(value), None)
    if error is None:
        return
    path = ".".join([name, *map(str, error.absolute_path)])
    rule = f"{error.validator}: {json.dumps(error.validator_value)}"
    raise InvalidInputError(
        f"Template variable `{path}`: {error.instance!r} breaks the rule `{rule}`.",
        hint=f"The queue's schema says {json.dumps(schema)}.",
    )
