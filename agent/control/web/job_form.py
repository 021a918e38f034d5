"""What a sent form says: parameters of a job, and what is wrong beside which field. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.control.web.job_fields import Field
from agent.model.spec import Json

#: Fields beside the parameters.
OTHERS: Final = "others"
VARIABLES: Final = "variables"

_WANTED: Final = {"number": "a number, such as 0.01", "integer": "a whole number", "json": "JSON"}


@dataclass(frozen=True, slots=True)
class Sent:
    """Names and texts of a form, as a browser sends them."""

    values: Mapping[str, Sequence[str]]

    def text(self, name: str) -> str:
        """One text; empty when the field is absent."""
        return next(iter(self.values.get(name, ())), "").strip()

    def texts(self, name: str) -> tuple[str, ...]:
        """All texts that are not empty."""
        return tuple(text for text in self.values.get(name, ()) if text.strip())


@dataclass(frozen=True, slots=True)
class Parameters:
    """The configuration that a form asks for."""

    config: Json
    #: With their texts as they were sent, and with their errors.
    fields: tuple[Field, ...]
    #: What is wrong with the object of further parameters.
    others_error: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether something must be put right before it can be launched."""
        return self.others_error is not None or any(field.error for field in self.fields)


def read_parameters(fields: Sequence[Field], schema: Json, sent: Sent) -> Parameters:
    """Read and check what was sent.

    A field that is empty is left out, so that the job's own default holds.
    """
    config, others_error = read_object(sent.text(OTHERS))
    read = tuple(_put(config, replace(field, texts=sent.texts(field.name))) for field in fields)
    if others_error is not None or any(field.error for field in read):
        return Parameters(config, read, others_error)
    return _checked(config, read, schema)


def read_object(text: str) -> tuple[Json, str | None]:
    """A JSON object, and what is wrong with it; an empty text is an empty object."""
    try:
        value = _loaded(text) if text else {}
    except (ValueError, RecursionError) as error:
        return {}, f"This is not JSON: {error}."
    if not isinstance(value, dict):
        return {}, 'This is not a JSON object; write {"name": value}.'
    return value, None


def _put(config: Json, field: Field) -> Field:
    """Lay a field's value into the configuration; gives the field, with an error if it has one."""
    if not field.texts:
        return replace(field, error="A value must be given.") if field.required else field
    try:
        value = _value(field)
    except (ValueError, RecursionError):
        wanted = _WANTED.get(field.kind, "one of the choices")
        return replace(field, error=f"'{field.text}' is not {wanted}.")
    inner = config
    for key in field.path[:-1]:
        below = inner.setdefault(key, {})
        if not isinstance(below, dict):
            return replace(field, error=f"'{key}' is given below, and is no object there.")
        inner = below
    inner[field.path[-1]] = value
    return field


def _value(field: Field) -> Any:
    text = field.text.strip()
    match field.kind:
        case "text":
            return field.text
        case "integer":
            return _integer(text)
        case "number":
            return _number(text)
        case "choices":
            return [_chosen(field, each) for each in field.texts]
        case "choice":
            return _chosen(field, text)
        case "json":
            return _loaded(text)


def _integer(text: str) -> int:
    """Digits as everybody writes them; `1_000` and foreign digits are likelier mistakes."""
    if text.isascii() and "_" not in text:
        return int(text)
    raise ValueError(text)


def _number(text: str) -> int | float:
    value = _loaded(text)
    if type(value) in {int, float}:
        return value  # type: ignore[no-any-return]
    raise ValueError(text)


def _loaded(text: str) -> Any:
    """JSON without the constants that no other program reads."""
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _chosen(field: Field, text: str) -> Any:
    if text not in field.choices:
        raise ValueError(text)
    return json.loads(text)


def _checked(config: Json, fields: tuple[Field, ...], schema: Json) -> Parameters:
    known = {field.path: field for field in fields}
    errors: dict[tuple[str, ...], str] = {}
    elsewhere: list[str] = []
    for path, sentence in _complaints(config, schema):
        field = next((p for p in _upward(path) if p in known), None)
        if field is None:
            elsewhere.append(f"`{'.'.join(path)}`: {sentence}" if path else sentence)
        else:
            errors.setdefault(field, sentence)
    told = tuple(replace(f, error=errors.get(f.path)) for f in fields)
    return Parameters(config, told, " ".join(elsewhere) or None)


def _complaints(config: Json, schema: Json) -> Iterator[tuple[tuple[str, ...], str]]:
    if not schema:
        return
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(config):
        path = tuple(str(part) for part in error.absolute_path)
        rule = f"{error.validator}: {json.dumps(error.validator_value, ensure_ascii=False)}"
        shown = json.dumps(error.instance, ensure_ascii=False)
        yield path, f"{shown} breaks the rule `{rule}`."


def _upward(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for length in range(len(path), 0, -1):
        yield path[:length]
