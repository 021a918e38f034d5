"""Inputs of jobs: what a submitter sets, checked against the job's JSON schemas. Pure."""

from typing import Any, Final

from agent.control.services.schema_checks import Check
from agent.model.spec import Json

CONFIG_KEY: Final = "@wandb.config"
FILES_KEY: Final = "files"


def input_checks(schemas: Json, overrides: Json) -> tuple[Check, ...]:
    """The checks of `overrides.run_config` and `overrides.files` against the schemas of a job."""
    checks: list[Check] = []
    config = schemas.get(CONFIG_KEY)
    if isinstance(config, dict):
        value = overrides.get("run_config") or {}
        checks.append(_check("overrides.run_config", config, value))
    files, given = schemas.get(FILES_KEY), overrides.get(FILES_KEY) or {}
    if isinstance(files, dict) and isinstance(given, dict):
        checks += [
            _check(f"overrides.files.{name}", schema, given[name])
            for name, schema in files.items()
            if isinstance(schema, dict) and name in given
        ]
    return tuple(checks)


def to_json_schema(schema: Any) -> Any:
    """The JSON Schema that a schema of W&B's clients stands for.

    They mark a property as required by `required: true` inside it; the standard lists names
    beside `properties`.
    """
    if isinstance(schema, list):
        return [to_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    properties = schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    kept = {
        key: to_json_schema(value)
        for key, value in schema.items()
        if key not in {"properties", "required"}
    }
    listed = schema.get("required")
    names = list(listed) if isinstance(listed, list) else []
    words = {name for name in names if isinstance(name, str)}
    names += [
        name
        for name, each in known.items()
        if isinstance(each, dict) and each.get("required") is True and name not in words
    ]
    if names:
        kept["required"] = names
    if "properties" in schema:
        kept["properties"] = (
            {name: to_json_schema(each) for name, each in known.items()}
            if isinstance(properties, dict)
            else properties
        )
    return kept


def _check(path: str, schema: Json, value: Any) -> Check:
    hint = "Create the job again with another schema."
    return Check("", path, f"The job's schema of `{path}`", hint, schema, value, to_json_schema)
