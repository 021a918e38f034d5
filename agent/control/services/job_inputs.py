"""Inputs of jobs: what a submitter sets, checked against the job's JSON schemas. Pure."""

import json
from typing import Any, Final

from agent.model.errors import InvalidInputError
from agent.model.spec import Json

CONFIG_KEY: Final = "@wandb.config"
FILES_KEY: Final = "files"
#: Characters of a value that a message quotes.
_QUOTED: Final = 200
_NOT_COPIED: Final = frozenset({"properties", "pattern", "patternProperties"})


def check_inputs(schemas: Json, overrides: Json) -> None:
    """Check `overrides.run_config` and `overrides.files` against the schemas of a job.

    Raises:
        InvalidInputError: names path, value and rule; or a schema that is not one.
    """
    config = schemas.get(CONFIG_KEY)
    if isinstance(config, dict):
        _check("overrides.run_config", config, overrides.get("run_config") or {})
    files, given = schemas.get(FILES_KEY), overrides.get(FILES_KEY) or {}
    if isinstance(files, dict) and isinstance(given, dict):
        for name, schema in files.items():
            if isinstance(schema, dict) and name in given:
                _check(f"overrides.files.{name}", schema, given[name])


def to_json_schema(schema: Any) -> Any:
    """The JSON Schema that a schema of W&B's clients stands for.

    They mark a property as required by `required: true` inside it; the standard lists names
    beside `properties`. Patterns, which W&B's clients do not write, are left out: a regular
    expression of a job's author could keep the server busy.
    """
    if isinstance(schema, list):
        return [to_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    properties = schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    kept = {key: to_json_schema(value) for key, value in schema.items() if key not in _NOT_COPIED}
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
        kept["properties"] = {name: to_json_schema(each) for name, each in known.items()}
    return kept


def _check(path: str, schema: Json, value: Any) -> None:
    import jsonschema
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    rules = to_json_schema(schema)
    # An empty registry: `$ref` resolves within the schema only, and nothing is fetched.
    registry: Registry[Any] = Registry()
    try:
        jsonschema.Draft202012Validator.check_schema(rules)
        validator = jsonschema.Draft202012Validator(rules, registry=registry)
        error = next(validator.iter_errors(value), None)
    except (jsonschema.SchemaError, Unresolvable, RecursionError) as broken:
        text = str(getattr(broken, "message", broken)).split("\n", 1)[0]
        message = f"The job's schema of `{path}` is not a JSON schema: {text}."
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
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"
