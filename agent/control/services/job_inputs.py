"""Checks what a submitter sets against the schemas of a job's inputs. Pure."""

import json
from typing import Any, Final

from agent.model.errors import InvalidInputError
from agent.model.spec import Json

CONFIG_KEY: Final = "@wandb.config"
FILES_KEY: Final = "files"
_SHOWN: Final = 200
_APART: Final = frozenset({"properties", "pattern", "patternProperties"})


def check_inputs(schemas: Json, overrides: Json) -> None:
    """Hold `overrides.run_config` and `overrides.files` against the schemas of a job.

    Raises:
        InvalidInputError: names path, value and rule; also a schema that is none.
    """
    config = schemas.get(CONFIG_KEY)
    if isinstance(config, dict):
        _check("overrides.run_config", config, overrides.get("run_config") or {})
    files, given = schemas.get(FILES_KEY), overrides.get(FILES_KEY) or {}
    if isinstance(files, dict) and isinstance(given, dict):
        for name, schema in files.items():
            if isinstance(schema, dict) and name in given:
                _check(f"overrides.files.{name}", schema, given[name])


def standard(schema: Any) -> Any:
    """A schema as W&B's clients write it, in the words of JSON Schema.

    They mark a property as required by `required: true` inside it; the standard lists names
    beside `properties`. Patterns, which W&B's clients do not know, are left out: whoever makes
    a job must not be able to keep the server busy with one.
    """
    if isinstance(schema, list):
        return [standard(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    properties = schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    kept = {key: standard(value) for key, value in schema.items() if key not in _APART}
    marked = [
        name
        for name, each in known.items()
        if isinstance(each, dict) and each.get("required") is True
    ]
    listed = schema.get("required")
    names = [*(listed if isinstance(listed, list) else ()), *marked]
    kept.pop("required", None)
    if names:
        kept["required"] = list(dict.fromkeys(names))
    if "properties" in schema:
        kept["properties"] = {name: standard(each) for name, each in known.items()}
    return kept


def _check(path: str, schema: Json, value: Any) -> None:
    import jsonschema
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    rules = standard(schema)
    # An empty registry: a schema refers to its own parts, and nothing is fetched for it.
    registry: Registry[Any] = Registry()
    try:
        jsonschema.Draft202012Validator.check_schema(rules)
        validator = jsonschema.Draft202012Validator(rules, registry=registry)
        error = next(validator.iter_errors(value), None)
    except (jsonschema.SchemaError, Unresolvable, RecursionError) as broken:
        text = str(getattr(broken, "message", broken)).split("\n", 1)[0]
        message = f"The job's schema of `{path}` is no JSON schema: {text}."
        raise InvalidInputError(message, hint="Create the job again with another one.") from None
    if error is None:
        return
    where = ".".join([path, *map(str, error.absolute_path)])
    rule = f"{error.validator}: {_text(error.validator_value)}"
    raise InvalidInputError(
        f"`{where}`: {_text(error.instance)} breaks the rule `{rule}`.",
        hint=f"The job's schema says {_text(error.schema)}.",
    )


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
