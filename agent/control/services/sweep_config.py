"""The configuration of a sweep, and the combinations of its grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.config.document import parse_document
from agent.model.errors import ConfigError, InvalidInputError
from agent.model.json_values import check_value
from agent.model.spec import Json

_MAX_TEXT: Final = 128 * 1024
#: Combinations of one grid.
_MAX_COMBINATIONS: Final = 1_000_000
_MAX_LEVEL: Final = 20
_GOALS: Final = ("minimize", "maximize")


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """A configuration as its user wrote it."""

    text: str
    document: Json

    @classmethod
    def parse(cls, text: str) -> "SweepConfig":
        """From YAML.

        Raises:
            InvalidInputError: not YAML, no grid, or a parameter that a grid cannot have.
        """
        if len(text) > _MAX_TEXT:
            raise InvalidInputError(f"A sweep's configuration has up to {_MAX_TEXT} characters.")
        try:
            document = parse_document(text, "config").data
        except ConfigError as error:
            raise InvalidInputError(error.message, hint=error.hint) from None
        check_value(document, "The sweep's configuration")
        method = document.get("method")
        if method != "grid":
            raise InvalidInputError(
                f"The sweep's `method` is '{str(method)[:40]}'; this server searches grids only.",
                hint="Use `method: grid`, with `values` for each parameter.",
            )
        Metric.of(document)
        combinations(document)
        return cls(text, document)


@dataclass(frozen=True, slots=True)
class Metric:
    """What a sweep looks for in the summaries of its runs."""

    name: str
    maximized: bool

    @classmethod
    def of(cls, document: Json) -> "Metric | None":
        """The metric of a configuration, if it names one.

        Raises:
            InvalidInputError
        """
        found = document.get("metric")
        if found is None:
            return None
        name = found.get("name") if isinstance(found, dict) else None
        goal = found.get("goal", _GOALS[0]) if isinstance(found, dict) else None
        if not isinstance(name, str) or not name or goal not in _GOALS:
            raise InvalidInputError(
                "The sweep's `metric` needs a `name`, and a `goal` of minimize or maximize."
            )
        return cls(name, goal == "maximize")


def combinations(document: Json) -> int:
    """How many combinations the grid of a configuration has.

    Raises:
        InvalidInputError: a parameter that a grid cannot have, or too many combinations.
    """
    count = math.prod(len(values) for values in _axes(document).values())
    if count > _MAX_COMBINATIONS:
        raise _too_many()
    return count


def _too_many() -> InvalidInputError:
    return InvalidInputError(f"The sweep's grid has more than {_MAX_COMBINATIONS} combinations.")


def combination(document: Json, number: int) -> dict[str, Json]:
    """The values of one combination as W&B's agents take them; the last parameter varies first."""
    chosen: dict[tuple[str, ...], Any] = {}
    for path, values in reversed(_axes(document).items()):
        number, index = divmod(number, len(values))
        chosen[path] = values[index]
    nested: dict[str, Any] = {}
    for path, value in reversed(chosen.items()):
        inner = nested
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value
    return {name: {"value": value} for name, value in nested.items()}


def _axes(document: Json) -> dict[tuple[str, ...], Sequence[Any]]:
    """The values of each parameter by its path: parameters may be nested."""
    parameters = document.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise InvalidInputError("The sweep's configuration has no `parameters`.")
    axes: dict[tuple[str, ...], Sequence[Any]] = {}
    _collect(parameters, (), axes)
    return axes


def _collect(
    parameters: Json, path: tuple[str, ...], axes: dict[tuple[str, ...], Sequence[Any]]
) -> None:
    if len(path) > _MAX_LEVEL:
        raise InvalidInputError(f"The sweep's parameters are nested deeper than {_MAX_LEVEL}.")
    for name, one in parameters.items():
        inner = one.get("parameters") if isinstance(one, dict) else None
        if isinstance(inner, dict) and inner:
            _collect(inner, (*path, name), axes)
        else:
            axes[*path, name] = _values((*path, name), one)


def _values(path: tuple[str, ...], parameter: Any) -> Sequence[Any]:
    match parameter:
        case {"value": value}:
            return [value]
        case {"values": [first, *others]}:
            return [first, *others]
        case {"min": int(low), "max": int(high)} if low <= high and _is_whole(parameter):
            if high - low >= _MAX_COMBINATIONS:
                # Python tells the length of no range that is larger than 2⁶³.
                raise _too_many()
            return range(low, high + 1)
        case _:
            raise InvalidInputError(
                f"The sweep's parameter '{'.'.join(path)[:80]}' has no values that a grid can try.",
                hint="Use `value`, `values` (a list), or `min` and `max` as whole numbers.",
            )


def _is_whole(parameter: Mapping[str, Any]) -> bool:
    ends = (parameter["min"], parameter["max"])
    kind = parameter.get("distribution", "int_uniform")
    return kind == "int_uniform" and not any(isinstance(end, bool) for end in ends)
