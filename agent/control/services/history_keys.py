"""Which keys the rows of a run's history have: types, how often, the last value."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

from agent.model.spec import Json

#: Keys of one run that are counted; rows with more are stored all the same.
MAX_KEYS: Final = 10_000
_MAX_NAME: Final = 512
_MAX_TEXT: Final = 256
_MAX_LEVELS: Final = 20


def counted_keys(rows: Iterable[Json]) -> Json:
    """For each key, with dots for nested ones: `types`, `first` and `last` value, `rises`."""
    found: Json = {}
    for row in rows:
        for key, value in flattened(row):
            _count(found, key, value)
    return found


def merged_keys(earlier: Json, later: Json) -> Json:
    """The keys of both, where the rows of `later` come after those of `earlier`."""
    merged = dict(earlier)
    for key, new in later.items():
        old = merged.get(key)
        if old is None:
            if len(merged) < MAX_KEYS:
                merged[key] = new
            continue
        types = dict(old["types"])
        for kind, count in new["types"].items():
            types[kind] = types.get(kind, 0) + count
        rises = old["rises"] and new["rises"] and not _falls(old["last"], new["first"])
        merged[key] = {"types": types, "first": old["first"], "last": new["last"], "rises": rises}
    return merged


def flattened(row: Json, prefix: str = "", level: int = 0) -> Iterator[tuple[str, Any]]:
    """The values of a row by dotted path; media, which have a `_type`, stay whole."""
    for key, value in row.items():
        name = f"{prefix}{key}"
        if len(name) > _MAX_NAME:
            continue
        if isinstance(value, dict) and value and "_type" not in value and level < _MAX_LEVELS:
            yield from flattened(value, f"{name}.", level + 1)
        else:
            yield name, value


def wandb_keys(keys: Json, last_step: int | None) -> Json:
    """As W&B's `historyKeys`."""
    described = {
        key: {
            "typeCounts": [{"type": kind, "count": n} for kind, n in one["types"].items()],
            "monotonic": one["rises"],
            "previousValue": one["last"],
        }
        for key, one in keys.items()
    }
    return {"keys": described, "lastStep": -1 if last_step is None else last_step, "sets": []}


def _count(found: Json, key: str, value: Any) -> None:
    kind = _kind(value)
    shown = _shown(value)
    one = found.get(key)
    if one is None:
        if len(found) < MAX_KEYS:
            found[key] = {"types": {kind: 1}, "first": shown, "last": shown, "rises": True}
        return
    types = one["types"]
    types[kind] = types.get(kind, 0) + 1
    if one["rises"] and _falls(one["last"], shown):
        one["rises"] = False
    one["last"] = shown


def _falls(earlier: Any, later: Any) -> bool:
    numbers = isinstance(earlier, int | float) and isinstance(later, int | float)
    return not numbers or later < earlier


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, dict):
        return str(value.get("_type", "map"))[:_MAX_TEXT]
    return "list" if isinstance(value, list) else "nil"


def _shown(value: Any) -> Any:
    """A value as strict JSON holds it; `None` for one that is long."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else None
    return value if isinstance(value, int | float) else None
