"""Pydantic's findings, said to people: where, what was seen, what is accepted."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from pydantic import ValidationError

from agent.config.base import Model
from agent.config.document import KeyPath
from agent.config.shape import annotation_at, describe, keys_at
from agent.model.names import did_you_mean

Place = Callable[[KeyPath], str]

_SECRET_PARTS: Final = ("key", "password", "secret", "token", "value", "database_url", "proxy")


def complaints(model: type[Model], error: ValidationError, data: Any, place: Place) -> list[str]:
    """One sentence per wrong value, in the order of the model."""
    by_path: dict[KeyPath, str] = {}
    for finding in error.errors(include_url=False, include_context=False):
        path = _real_path(model, finding["loc"])
        if path not in by_path:
            by_path[path] = _sentence(model, finding, path, data)
    return [f"{place(path)}: {sentence}" for path, sentence in by_path.items()]


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


_BOUNDS: Final = frozenset(
    {
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
    }
)


def _real_path(model: type[Model], location: tuple[str | int, ...]) -> KeyPath:
    """Pydantic's location without the names of union members that it mixes in."""
    return tuple(_real_parts(model, location))


def _real_parts(model: type[Model], location: tuple[str | int, ...]) -> Iterator[str | int]:
    taken: KeyPath = ()
    for index, part in enumerate(location):
        candidate = (*taken, part)
        is_last = index == len(location) - 1
        known = annotation_at(model, candidate) is not None
        if known or (is_last and keys_at(model, taken)):
            taken = candidate
            yield part


def _value_at(data: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _shown(path: KeyPath, value: Any) -> str:
    if any(part in str(path[-1]).lower() for part in _SECRET_PARTS) if path else False:
        return f"a value of {len(str(value))} characters (not shown)"
    written = str(value).lower() if isinstance(value, bool) else value
    text = "nothing" if value is None else f"`{written}`"
    return text if len(text) <= _LONG else text[: _LONG - 2] + "…`"


_LONG: Final = 80


def dotted(path: KeyPath) -> str:
    """`runners.local-container.host`, `queues[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
