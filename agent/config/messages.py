"""Messages about a configuration: what is not valid, and what the machine lacks."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from agent.config.base import Model, SecretReference
from agent.config.document import KeyPath, dotted
from agent.config.schema import annotation_at, describe, keys_at, values_of
from agent.model.errors import ConfigError
from agent.model.names import did_you_mean

Place = Callable[[KeyPath], str]

#: A value below a key with one of these words in its name is not shown.
_SECRET_WORDS: Final = ("key", "password", "secret", "token", "value", "database_url", "proxy")
_BOUNDS: Final = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
_LONGEST_SHOWN: Final = 80
#: Keys of files and folders that the agent reads and never makes.
_INPUT_PATHS: Final = frozenset({"ca_bundle", "known_hosts", "ssh_key", "buildkit_certs", "source"})


def validation_messages(
    model: type[Model], error: ValidationError, data: Any, place: Place
) -> list[str]:
    """One sentence per wrong value, in the order of the model: place, value, accepted forms."""
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
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 2] + "…`"


def missing_inputs(config: Model, environ: Mapping[str, str]) -> tuple[str, ...]:
    """One sentence for each secret that cannot be read and each path that does not exist.

    They do not keep an agent from starting: secrets are read anew for each job, and may come
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
