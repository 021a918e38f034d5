"""JSON schemas that users supply, and the check of values against them. Blocks for up to a second.

The one validator of this product. Schemas come from untrusted users, so only a part of JSON
Schema 2020-12 is accepted, whose cost is bounded:

- `$ref` is `#` or a JSON pointer into the same document; nothing is ever fetched, and names
  (`$id` within the schema, `$anchor`, `$dynamicRef`) do not exist.
- Regular expressions run in linear time (RE2), so that lookarounds and backreferences are refused.
- Checks take a limited number of steps, however `$ref`, `allOf` and their like multiply.

`$schema` and an `$id` at the top are ignored: many editors write them.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from agent.model.errors import InvalidInputError

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

#: Characters of a schema's JSON text, and objects and lists within each other.
MAX_TEXT: Final = 256 * 1024
MAX_DEPTH: Final = 64
#: Keywords that are applied to values, plus about a tenth of the entries they look at: some
#: tenths of a second.
MAX_STEPS: Final = 20_000
#: The same, for finding out whether a schema is one: about a thousand properties.
_SCHEMA_STEPS: Final = 40_000

_SPECIFICATION: Final = "https://json-schema.org/draft/2020-12/"
_DOCUMENTS: Final = (
    "schema", "meta/core", "meta/applicator", "meta/unevaluated", "meta/validation",
    "meta/meta-data", "meta/format-annotation", "meta/content",
)  # fmt: skip
_REFUSED: Final = {
    "$anchor": "Refer to it by its place: `#/$defs/name`.",
    "$dynamicAnchor": "Refer to it by its place: `#/$defs/name`.",
    "$dynamicRef": "Use `$ref`.",
    "$recursiveAnchor": "Use `$ref`.",
    "$recursiveRef": "Use `$ref`.",
    "$vocabulary": "Leave it out.",
    "unevaluatedItems": "Use `items`.",
    "unevaluatedProperties": "Use `additionalProperties`.",
}
#: Keywords whose value maps names to schemas, and those whose value is no schema.
_NAMED: Final = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
)
_DATA: Final = frozenset({"enum", "const", "default", "examples", "example"})
_INT64: Final = range(-(2**63), 2**63)
#: Bytes that a compiled regular expression may take.
_PATTERN_MEMORY: Final = 1 << 20
#: Keywords within each other while a value or a schema is checked: the deepest schema takes 255.
_MAX_LEVELS: Final = 270
_SHARE: Final = 10
_LETTERS: Final = 100


@dataclass(slots=True)
class _Left:
    """What a check may still use."""

    steps: int
    #: Keywords within each other. The interpreter's own limit must not be reached: a library
    #: below turns it into an error that no caller expects.
    levels: int = _MAX_LEVELS


_left: ContextVar[_Left] = ContextVar("what is left")


class UnusableSchemaError(InvalidInputError):
    """A value that is no schema, or a schema with keywords that this product does not accept.

    `place` is where in the schema, `reason` a sentence without it.
    """

    def __init__(self, place: tuple[str | int, ...], reason: str, hint: str | None = None) -> None:
        where = f"`{'.'.join(map(str, place))}`: " if place else ""
        super().__init__(f"{where}{reason}", hint=hint)
        self.place = place
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Violation:
    """A value, or a part of it, that a schema does not allow."""

    #: Where in the value.
    path: tuple[str | int, ...]
    keyword: str
    #: The keyword's value.
    rule: Any
    value: Any


@contextmanager
def shared_steps(number: int = MAX_STEPS) -> Iterator[None]:
    """All checks within the block share one limit of steps."""
    token = _left.set(_Left(number))
    try:
        yield
    finally:
        _left.reset(token)


def check_schema(schema: Any) -> None:
    """Check that a schema can be used.

    Raises:
        UnusableSchemaError: names the place in it.
    """
    _prepared(_text_of(schema))


def violations(schema: Any, value: Any, most: int = 1) -> tuple[Violation, ...]:
    """The first things that are wrong with a value.

    Raises:
        UnusableSchemaError: the schema is none, or the check takes too many steps.
    """
    rules = _prepared(_text_of(schema))
    if _left.get(None) is not None:
        return _violations(rules, value, most)
    with shared_steps():
        return _violations(rules, value, most)


def _violations(rules: Any, value: Any, most: int) -> tuple[Violation, ...]:
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # An empty registry: a reference resolves within the schema or not at all.
    registry: Registry[Any] = Registry()
    errors = _validator_class()(rules, registry=registry).iter_errors(value)
    try:
        return tuple(
            Violation(
                tuple(error.absolute_path),
                str(error.validator),
                error.validator_value,
                error.instance,
            )
            for error in islice(errors, most)
        )
    except Unresolvable as broken:
        reason = f"`$ref` refers to '{_short(broken.ref)}', which is not in the schema."
        raise UnusableSchemaError((), reason) from None
    except RecursionError:
        raise UnusableSchemaError((), "it refers to itself without end.") from None
    except (ArithmeticError, ValueError):
        reason = "a number in the schema or in the value is too large to be compared."
        raise UnusableSchemaError((), reason) from None


def _text_of(schema: Any) -> str:
    try:
        text = json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise UnusableSchemaError((), "it cannot be written as JSON.") from None
    if len(text) > MAX_TEXT:
        reason = f"it has {len(text)} characters; {MAX_TEXT} are allowed."
        raise UnusableSchemaError((), reason)
    return text


@lru_cache(maxsize=128)
def _prepared(text: str) -> Any:
    """The checked schema of a JSON text, without what is ignored."""
    schema = _usable(json.loads(text), ())
    with shared_steps(_SCHEMA_STEPS):
        meta, registry = _specification()
        error = next(_validator_class()(meta, registry=registry).iter_errors(schema), None)
    if error is not None:
        raise UnusableSchemaError(tuple(error.absolute_path), f"{_short(error.message)}.")
    return schema


def _usable(schema: Any, place: tuple[str | int, ...]) -> Any:
    """A copy without `$schema`, once every keyword of it is one that can be bounded."""
    if len(place) > MAX_DEPTH:
        raise UnusableSchemaError(place[:3], f"it is more than {MAX_DEPTH} levels deep.")
    if isinstance(schema, list):
        return [_usable(each, (*place, index)) for index, each in enumerate(schema)]
    if isinstance(schema, int) and schema not in _INT64:
        raise UnusableSchemaError(place, "it is not an integer of 64 bits.")
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        here = (*place, keyword)
        if keyword == "$schema" or (keyword == "$id" and not place):
            continue
        _check_keyword(keyword, value, here)
        if keyword in _NAMED and isinstance(value, dict):
            kept[keyword] = {name: _usable(each, (*here, name)) for name, each in value.items()}
        else:
            kept[keyword] = value if keyword in _DATA else _usable(value, here)
    return kept


def _check_keyword(keyword: str, value: Any, here: tuple[str | int, ...]) -> None:
    if keyword in _REFUSED:
        raise UnusableSchemaError(here, f"`{keyword}` is not supported.", _REFUSED[keyword])
    if keyword in {"$id", "$ref"} and isinstance(value, str) and not _within(keyword, value):
        reason = f"it refers to '{_short(value)}', outside of the schema."
        hint = "A `$ref` can only refer to a part of the same schema: `#/$defs/name`."
        raise UnusableSchemaError(here, reason, hint)
    if keyword == "pattern" and isinstance(value, str):
        _check_pattern(value, here)
    if keyword == "patternProperties" and isinstance(value, dict):
        for pattern in value:
            _check_pattern(pattern, (*here, pattern))


def _within(keyword: str, target: str) -> bool:
    return keyword == "$ref" and (target == "#" or target.startswith("#/"))


def _check_pattern(pattern: str, here: tuple[str | int, ...]) -> None:
    import re2

    try:
        _compiled(pattern)
    except re2.error as error:
        given = error.args[0] if error.args else b""
        seen = given.decode("utf-8", "replace") if isinstance(given, bytes) else str(given)
        hint = "Lookarounds and backreferences are not supported, nor very large repetitions."
        reason = f"'{_short(pattern)}' is not a regular expression of RE2: {seen}."
        raise UnusableSchemaError(here, reason, hint) from None


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.max_mem = _PATTERN_MEMORY
    options.log_errors = False
    return re2.compile(pattern, options)


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"


@lru_cache(maxsize=1)
def _specification() -> tuple[Any, Any]:
    """JSON Schema's schema of itself, and a registry of its parts.

    Without their `$schema`, for which the library would take its own validator, without limits.
    """
    from jsonschema_specifications import REGISTRY
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    parts = {
        name: {
            key: value
            for key, value in REGISTRY[f"{_SPECIFICATION}{name}"].contents.items()
            if key != "$schema"
        }
        for name in _DOCUMENTS
    }
    registry: Registry[Any] = Registry().with_resources(
        (f"{_SPECIFICATION}{name}", DRAFT202012.create_resource(part))
        for name, part in parts.items()
    )
    return parts["schema"], registry.crawl()


@lru_cache(maxsize=1)
def _validator_class() -> "type[Validator]":
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    ours: Mapping[str, Callable[..., Any]] = {
        "additionalProperties": _additional_properties,
        "const": _const,
        "enum": _enum,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "uniqueItems": _unique_items,
    }
    keywords = {**Draft202012Validator.VALIDATORS, **ours}
    counted = {name: _counted(check) for name, check in keywords.items() if name != "format"}
    made: type[Validator] = extend(Draft202012Validator, counted)  # type: ignore[no-untyped-call]
    return made


def _counted(keyword: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """A keyword of the library that counts its steps against the limit."""

    def check(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _pay(1 + (_length(rule) + _length(instance)) // _SHARE)
        if isinstance(rule, str):
            # The library follows a pointer in quadratic time.
            _pay(rule.count("/") ** 2 // _SHARE)
        left = _left.get()
        if left.levels == 0:
            raise UnusableSchemaError((), "it refers to itself without end, or nests too deeply.")
        left.levels -= 1
        try:
            for error in keyword(validator, rule, instance, schema) or ():
                # Messages quote values, and alternatives keep the messages of all of them.
                _pay(1 + len(error.message) // _LETTERS)
                yield error
        finally:
            left.levels += 1

    return check


def _pay(steps: int) -> None:
    left = _left.get()
    left.steps -= steps
    if left.steps < 0:
        reason = "the check takes more steps than are allowed."
        hint = "Make the schema simpler, or the value smaller."
        raise UnusableSchemaError((), reason, hint)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value) // _SHARE
    return len(value) if isinstance(value, dict | list) else 0


def _matches(pattern: str, text: str) -> bool:
    _pay(1 + len(text) // _LETTERS)
    return _compiled(pattern).search(text) is not None


def _pattern(validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError(f"it does not match '{pattern}'")


def _pattern_properties(validator: Any, rules: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, rule in rules.items():
        for name, value in instance.items():
            if _matches(pattern, name):
                yield from validator.descend(value, rule, path=name, schema_path=pattern)


def _additional_properties(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if not validator.is_type(instance, "object"):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, value in instance.items():
        if name in known or any(_matches(pattern, name) for pattern in patterns):
            continue
        if rule is False:
            yield ValidationError(f"'{name}' is not expected")
            return
        yield from validator.descend(value, rule, path=name)


def _const(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
    return _enum(validator, [rule], instance, schema)


def _enum(_validator: Any, rule: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, dict | list):
        wanted = _text_to_compare(instance)
        found = any(
            isinstance(each, dict | list) and _text_to_compare(each) == wanted for each in rule
        )
    else:
        boolean = isinstance(instance, bool)
        found = any(each == instance and isinstance(each, bool) is boolean for each in rule)
    if not found:
        yield ValidationError("it is not one of the allowed values")


def _unique_items(validator: Any, rule: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if not rule or not validator.is_type(instance, "array"):
        return
    texts = [_text_to_compare(each) for each in instance]
    if len(set(texts)) < len(texts):
        yield ValidationError("it has the same entry twice")


def _text_to_compare(value: Any) -> str:
    """The same for equal values: two of them are compared in the time of their size."""
    text = json.dumps(_comparable(value), sort_keys=True)
    _pay(1 + len(text) // _LETTERS)
    return text


def _comparable(value: Any) -> Any:
    """JSON Schema takes 1 and 1.0 for the same, and not 1 and `true`."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_comparable(each) for each in value]
        case dict():
            return {name: _comparable(each) for name, each in value.items()}
        case _:
            return value
