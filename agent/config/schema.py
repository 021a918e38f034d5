"""What the models accept, and messages about what they do not.

Which keys exist where, how their values are written, which values are wrong or missing.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from agent.config.base import Model, SecretReference, WrittenForm
from agent.config.document import KeyPath, dotted
from agent.model.errors import ConfigError
from agent.model.names import did_you_mean


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


# ------------------------------------------------------------------ messages

Location = Callable[[KeyPath], str]

#: A value below a key with one of these words in its name is not shown.
_SECRET_WORDS: Final = ("key", "password", "secret", "token", "value", "database_url", "proxy")
_BOUNDS: Final = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
_MAX_SHOWN_CHARS: Final = 80
#: Keys of files and folders that the agent reads and never makes.
_INPUT_PATHS: Final = frozenset({"ca_bundle", "known_hosts", "ssh_key", "buildkit_certs", "source"})


def validation_messages(
    model: type[Model], error: ValidationError, data: Any, location: Location
) -> list[str]:
    """One sentence per wrong value, in the order of the model: place, value, accepted forms."""
    by_path: dict[KeyPath, str] = {}
    for finding in error.errors(include_url=False, include_context=False):
        path = _real_path(model, finding["loc"])
        if path not in by_path:
            by_path[path] = _sentence(model, finding, path, data)
    return [f"{location(path)}: {sentence}" for path, sentence in by_path.items()]


def _sentence(model: type[Model], finding: Any, path: KeyPath, data: Any) -> str:
    shown = dotted(path)
    match finding["type"]:
        case "extra_forbidden":
            around = path[:-1]
            hint = did_you_mean(str(path[-1]), keys_at(model, around), "key")
            where = f" in `{dotted(around)}`" if around else ""
            return f"unknown key `{path[-1]}`{where}. {hint}"
        case "missing":
            return f"`{shown}` is missing; expected {describe(annotation_at(model, path))}."
        case _:
            return f"`{shown}`: {_problem(model, finding, path, data)}"


def _problem(model: type[Model], finding: Any, path: KeyPath, data: Any) -> str:
    reason = finding["msg"].removeprefix("Value error, ").removesuffix(".")
    if finding["type"] == "value_error" and _value_at(data, path) is finding["input"]:
        if isinstance(finding["input"], dict):
            return f"{reason}."
        detail = "" if isinstance(finding["input"], bool) else f" ({reason})"
    else:
        detail = f" ({reason.lower()})" if finding["type"] in _BOUNDS else ""
    seen = _shown(path, _value_at(data, path))
    return f"seen {seen}{detail}; expected {describe(annotation_at(model, path))}."


def _real_path(model: type[Model], location: tuple[str | int, ...]) -> KeyPath:
    """Pydantic's location without the names of union members that it mixes in."""
    path: KeyPath = ()
    for index, part in enumerate(location):
        candidate = (*path, part)
        is_last = index == len(location) - 1
        known = annotation_at(model, candidate) is not None
        if known or (is_last and keys_at(model, path)):
            path = candidate
    return path


def _value_at(data: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _shown(path: KeyPath, value: Any) -> str:
    if path and any(word in str(path[-1]).lower() for word in _SECRET_WORDS):
        return f"a value of {len(str(value))} characters (not shown)"
    written = str(value).lower() if isinstance(value, bool) else value
    text = "nothing" if value is None else f"`{written}`"
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 2] + "…`"


def missing_inputs(config: Model, environ: Mapping[str, str]) -> tuple[str, ...]:
    """One sentence for each secret that cannot be read and each path that does not exist.

    They do not keep an agent from starting: secrets are read again for each job, and may come
    later.
    """
    return tuple(_missing((), config, environ))


def _missing(path: KeyPath, value: Any, environ: Mapping[str, str]) -> Iterator[str]:
    if isinstance(value, SecretReference):
        try:
            value.read(environ)
        except ConfigError as error:
            yield f"`{dotted(path)}`: {error}"
    elif isinstance(value, Path) and path[-1] in _INPUT_PATHS and not value.exists():
        yield f"`{dotted(path)}`: {value} does not exist."
    else:
        for key, inner in _inner_values(value):
            yield from _missing((*path, key), inner, environ)


def _inner_values(value: Any) -> Iterator[tuple[str | int, Any]]:
    match value:
        case Model():
            yield from values_of(value)
        case dict():
            yield from value.items()
        case tuple():
            yield from enumerate(value)
