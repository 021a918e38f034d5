"""Fields of the form that launches a job again, drawn from what is known of its inputs. Pure.

A JSON schema says most; without one the types that an earlier run had are taken. What neither
knows is given as a JSON object beside the fields.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, Literal

from agent.model.spec import Json

Kind = Literal["number", "integer", "choice", "choices", "text", "json"]

_MAX_FIELDS: Final = 200
#: Objects nested deeper are one field of JSON.
_MAX_DEPTH: Final = 6
_KINDS: Final[Mapping[str, Kind]] = {"number": "number", "integer": "integer", "string": "text"}
_BOOLEAN: Final = (True, False)


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter of a job."""

    #: Keys that lead to it in the run's configuration.
    path: tuple[str, ...]
    kind: Kind
    label: str
    description: str = ""
    placeholder: str = ""
    required: bool = False
    #: JSON texts of the values there are.
    choices: tuple[str, ...] = ()
    #: What the form shows: nothing, one text, or of `choices` several.
    texts: tuple[str, ...] = ()
    error: str | None = None

    @property
    def name(self) -> str:
        """Its name in the form's data; keys may hold any character."""
        return f"config{json.dumps(self.path)}"

    @property
    def id(self) -> str:
        """Its id on the page, where no space may stand."""
        return f"field-{self.name.encode().hex()}"

    @property
    def text(self) -> str:
        """What a field of one value shows."""
        return self.texts[0] if self.texts else ""


def fields_of(schema: Json, types: Json, last: Json) -> tuple[Field, ...]:
    """The fields, with what was launched last in them, else the schema's defaults.

    Args:
        schema: JSON schema of the run's configuration; empty when there is none.
        types: W&B's type tree of it; counts when there is no schema.
        last: the configuration that was launched last.
    """
    found = _of_schema(schema, ()) if schema else _of_types(types, ())
    return tuple(_filled(field, last) for field in islice(found, _MAX_FIELDS))


def without_fields(fields: Sequence[Field], last: Json) -> Json:
    """What was launched last and has no field of its own."""
    rest: Json = json.loads(json.dumps(last))
    for field in fields:
        _remove(rest, field.path)
    return rest


def _of_schema(schema: Json, path: tuple[str, ...]) -> Iterator[Field]:
    listed = schema.get("required")
    needed = set(listed) if isinstance(listed, list) else set()
    for name, each in _objects(schema.get("properties")):
        here = (*path, name)
        if isinstance(each.get("properties"), dict) and len(here) < _MAX_DEPTH:
            yield from _of_schema(each, here)
        else:
            yield replace(_of_property(each, here), required=name in needed)


def _objects(properties: object) -> Iterator[tuple[str, Json]]:
    if isinstance(properties, dict):
        yield from ((str(k), v) for k, v in properties.items() if isinstance(v, dict))


def _of_property(schema: Json, path: tuple[str, ...]) -> Field:
    kind, choices = _kind(schema)
    field = Field(
        path,
        kind,
        label=_words(schema, "title", "label") or ".".join(path),
        description=_words(schema, "description"),
        placeholder=_words(schema, "placeholder"),
        choices=tuple(json.dumps(choice) for choice in choices),
    )
    return _showing(field, schema["default"]) if "default" in schema else field


def _kind(schema: Json) -> tuple[Kind, Sequence[Any]]:
    items = schema.get("items")
    if isinstance(schema.get("enum"), list):
        return "choice", schema["enum"]
    if isinstance(items, dict) and isinstance(items.get("enum"), list):
        return "choices", items["enum"]
    if schema.get("type") == "boolean":
        return "choice", _BOOLEAN
    return _KINDS.get(str(schema.get("type")), "json"), ()


def _words(schema: Json, *keys: str) -> str:
    return next((str(schema[key]) for key in keys if schema.get(key)), "")


def _of_types(tree: Json, path: tuple[str, ...]) -> Iterator[Field]:
    for name, each in _objects(_map(tree)):
        here = (*path, name)
        if _map(each) and len(here) < _MAX_DEPTH:
            yield from _of_types(each, here)
        elif each.get("wb_type") == "boolean":
            choices = tuple(json.dumps(choice) for choice in _BOOLEAN)
            yield Field(here, "choice", ".".join(here), choices=choices)
        else:
            yield Field(here, _KINDS.get(str(each.get("wb_type")), "json"), ".".join(here))


def _map(tree: Json) -> Any:
    """The parts of an object's type; nothing for another type's."""
    parameters = tree.get("params")
    return parameters.get("type_map") if isinstance(parameters, dict) else None


def _filled(field: Field, last: Json) -> Field:
    found: Any = last
    for key in field.path:
        if not isinstance(found, dict) or key not in found:
            return field
        found = found[key]
    return _showing(field, found)


def _showing(field: Field, value: Any) -> Field:
    if field.kind == "choices" and isinstance(value, list):
        return replace(field, texts=tuple(json.dumps(each) for each in value))
    if field.kind == "text" and isinstance(value, str):
        return replace(field, texts=(value,))
    if field.kind == "text":
        return replace(field, kind="json", texts=(json.dumps(value),))
    return replace(field, texts=(json.dumps(value, ensure_ascii=False),))


def _remove(config: Json, path: tuple[str, ...]) -> None:
    """Take a value away, and the objects that are empty without it."""
    first, *rest = path
    if not rest:
        config.pop(first, None)
    elif isinstance(config.get(first), dict):
        _remove(config[first], tuple(rest))
        if not config[first]:
            del config[first]
