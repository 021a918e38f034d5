"""What the models accept: which keys exist where, and how their values are written."""

from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from agent.config.base import Model, WrittenForm
from agent.config.document import KeyPath


def fields_of(model: type[Model]) -> dict[str, FieldInfo]:
    """Fields by the name under which files write them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def values_of(model: Model) -> Iterator[tuple[str, Any]]:
    """Each value with the name under which files write it."""
    for name, field in type(model).model_fields.items():
        yield field.alias or name, getattr(model, name)


def annotation_at(model: type[Model], path: KeyPath) -> Any:
    """The annotation of a value in a file; `None` when no such key can be."""
    current: Any = model
    for part in path:
        current = _step(current, part)
        if current is None:
            return None
    return current


def keys_at(model: type[Model], path: KeyPath) -> tuple[str, ...]:
    """The keys that a mapping at this place may have."""
    nested = _model_in(annotation_at(model, path))
    return tuple(fields_of(nested)) if nested else ()


def key_paths(model: type[Model]) -> Iterator[tuple[str, ...]]:
    """Every key that can be written; `*` stands for a name of the administrator's choice."""
    for name, field in fields_of(model).items():
        annotation = _whole(field)
        nested = _model_in(annotation)
        if nested is not None:
            yield from ((name, *rest) for rest in key_paths(nested))
            continue
        element = _model_in(_element(annotation))
        if element is not None:
            yield from ((name, "*", *rest) for rest in key_paths(element))
        else:
            yield (name,)


def describe(annotation: Any) -> str:
    """How values of this annotation are written, for messages."""
    forms = dict.fromkeys(_forms(annotation))
    return " or ".join(forms) or "another value"


def _forms(annotation: Any) -> Iterator[str]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _annotated_forms(annotation)
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _forms(member)
    elif origin is Literal:
        yield "one of " + ", ".join(f"`{value}`" for value in get_args(annotation))
    elif origin is tuple:
        item = describe(get_args(annotation)[0])
        yield "a list of strings" if item == "a string" else f"a list, each item {item}"
    elif origin is dict or _model_in(annotation):
        yield "a mapping of `key: value`"
    elif annotation is not NoneType:
        yield _PLAIN.get(annotation, "another value")


def _annotated_forms(annotation: Any) -> Iterator[str]:
    base, *metadata = get_args(annotation)
    given = [note.text for note in metadata if isinstance(note, WrittenForm)]
    if given:
        yield given[0]
    else:
        yield from _forms(base)


_PLAIN: dict[Any, str] = {
    bool: "`true` or `false`",
    int: "a whole number",
    float: "a number",
    str: "a string",
    SecretStr: "a string",
    Path: "a path",
}


def _whole(field: FieldInfo) -> Any:
    """The annotation with the metadata that pydantic has taken out of it."""
    forms = tuple(note for note in field.metadata if isinstance(note, WrittenForm))
    return Annotated[field.annotation, *forms] if forms else field.annotation


def _step(annotation: Any, part: str | int) -> Any:
    nested = _model_in(annotation)
    if nested is not None:
        field = fields_of(nested).get(str(part))
        return _whole(field) if field else None
    return _element(annotation, int if isinstance(part, int) else str)


def _members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _model_in(annotation: Any) -> type[Model] | None:
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, Model):
            return member
    return None


def _element(annotation: Any, by: type | None = None) -> Any:
    """What a list (by position) or a mapping of free names (by name) holds."""
    for member in _members(annotation):
        arguments = get_args(member)
        if get_origin(member) is tuple and by in (int, None):
            return arguments[0]
        if get_origin(member) is dict and by in (str, None):
            return arguments[1]
    return None
