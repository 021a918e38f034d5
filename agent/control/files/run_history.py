"""Rows of a run's history, read for W&B's clients and for charts: by step, and sampled."""

import asyncio
import json
import math
import re
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from agent.control.files.run_streams import HistoryPart, RunStreamStore
from agent.control.services.stream_update import step_of
from agent.control.store.run_streams import Stream
from agent.model.errors import InvalidInputError
from agent.model.spec import Json

#: Rows that one sample has at most.
MAX_SAMPLES: Final = 10_000
DEFAULT_SAMPLES: Final = 500
#: Bytes that one thread searches at a time.
_BATCH: Final = 8 * 1024**2
#: Keys that every encoder of JSON writes as they are.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./ -]+")


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """Which rows and keys of a history are wanted: those that have all keys."""

    keys: tuple[str, ...]
    samples: int
    steps: range

    @classmethod
    def parse(cls, spec: Any) -> "SampleSpec":
        """From `{"keys": […], "samples": n, "minStep": n, "maxStep": n}`, all optional.

        Raises:
            InvalidInputError
        """
        if not isinstance(spec, dict):
            raise InvalidInputError("A specification of samples must be a JSON object.")
        keys = spec.get("keys") or []
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise InvalidInputError("`keys` of a specification of samples must be texts.")
        return cls(
            tuple(keys),
            _number(spec, "samples", DEFAULT_SAMPLES),
            step_range(_number(spec, "minStep", None), _number(spec, "maxStep", None)),
        )


def step_range(first: int | None, end: int | None) -> range:
    """Steps `first` (inclusive) to `end` (exclusive), where `None` is open."""
    return range(first or 0, 2**53 if end is None else end)


async def rows_of_steps(store: RunStreamStore, run_id: str, steps: range) -> list[str]:
    """All rows of these steps, as their process wrote them."""
    found: list[str] = []
    async for parts in _batches(store, run_id, steps):
        found += await asyncio.to_thread(_texts, parts, steps)
    return found


async def sampled_rows(
    store: RunStreamStore, run_id: str, stream: Stream, samples: int, steps: range | None = None
) -> list[str]:
    """At most so many rows at even distances; the first and the last are among them."""
    if steps is not None:
        rows = await rows_of_steps(store, run_id, steps)
        return [rows[index] for index in even(len(rows), samples)]
    lines = [line async for _, part in store.lines(run_id, stream) for line in part]
    return [lines[index].decode() for index in even(len(lines), samples)]


async def sampled_values(store: RunStreamStore, run_id: str, spec: SampleSpec) -> list[Json]:
    """The wanted keys of rows that have all of them, at even distances.

    Only as many rows as are wanted are decoded: a history has a hundred thousand. NaN and the
    infinities are texts, since strict JSON has none.
    """
    found: list[bytes] = []
    async for parts in _batches(store, run_id, spec.steps):
        found += await asyncio.to_thread(_with_keys, parts, spec)
    return await asyncio.to_thread(_values, found, spec)


async def _batches(
    store: RunStreamStore, run_id: str, steps: range
) -> AsyncIterator[Sequence[HistoryPart]]:
    """Parts of a history, as many at a time as one thread is worth."""
    parts: list[HistoryPart] = []
    size = 0
    async for part in store.steps(run_id, steps):
        parts.append(part)
        size += len(part.data)
        if size >= _BATCH:
            yield parts
            parts, size = [], 0
    if parts:
        yield parts


def _texts(parts: Sequence[HistoryPart], steps: range) -> list[str]:
    return [line.decode() for part in parts for line in part.of_steps(steps)]


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one metric with their steps and the seconds since the run's start."""

    steps: list[int]
    seconds: list[float | None]
    values: list[float]


async def sampled_series(
    store: RunStreamStore, run_id: str, stream: Stream, keys: Sequence[str], samples: int
) -> dict[str, Series]:
    """Numbers of each key, at even distances among the rows that have it."""
    parts = [part async for part in store.steps(run_id, step_range(None, None), stream)]
    return await asyncio.to_thread(_all_series, parts, dict.fromkeys(keys), samples)


def _all_series(
    parts: Sequence[HistoryPart], keys: Iterable[str], samples: int
) -> dict[str, Series]:
    lines = [part.segment.lines(part.data) for part in parts]
    # Of each part the index of its first row.
    starts = [0, *accumulate(len(part) for part in lines)]

    def row(index: int) -> tuple[int, bytes]:
        """The number of a line, and the line."""
        part = bisect_right(starts, index) - 1
        within = index - starts[part]
        return parts[part].segment.first_line + within, lines[part][within]

    found: dict[str, Series] = {}
    for key in keys:
        mark = _mark(key)
        counts = zip(parts, lines, strict=True)
        # Mostly each line has it, once: counting is several times as fast as looking.
        if mark is None or all(part.data.count(mark) == len(each) for part, each in counts):
            chosen: Sequence[int] = range(starts[-1])
        else:
            every = (line for part in lines for line in part)
            chosen = [index for index, line in enumerate(every) if mark in line]
        found[key] = _series([row(chosen[n]) for n in even(len(chosen), samples)], key)
    return found


def _mark(key: str) -> bytes | None:
    """What is in each line that has the key; `None` when encoders may write it differently."""
    last = key.rpartition(".")[2]
    return f'{last}"'.encode() if _PLAIN.fullmatch(last) else None


def _series(sample: Iterable[tuple[int, bytes]], key: str) -> Series:
    series = Series([], [], [])
    for number, line in sample:
        row = json.loads(line)
        value, seconds = _as_float(_value(row, key)), _as_float(row.get("_runtime"))
        if value is not None:
            series.steps.append(step_of(row, number))
            series.seconds.append(seconds)
            series.values.append(value)
    return series


def _as_float(value: Any) -> float | None:
    """`None` for what is no number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def even(count: int, wanted: int) -> Sequence[int]:
    """At most `wanted` of `count` indexes at even distances, with the first and the last."""
    if count <= wanted:
        return range(count)
    if wanted <= 1:
        return range(count - 1, count)
    return [index * (count - 1) // (wanted - 1) for index in range(wanted)]


def _values(lines: Sequence[bytes], spec: SampleSpec) -> list[Json]:
    """Some rows that seem to have the keys may not, when they have them within a text."""
    chosen: list[Json] = []
    for index in even(len(lines), min(spec.samples, MAX_SAMPLES)):
        row = json.loads(lines[index])
        values = {key: strict(_value(row, key)) for key in spec.keys} if spec.keys else strict(row)
        if _MISSING not in values.values():
            chosen.append(values)
    return chosen


_MISSING: Final = object()


def _value(row: Json, key: str) -> Any:
    """The value of a key, which may be that of nested objects, joined by dots."""
    if key in row or "." not in key:
        return row.get(key, _MISSING)
    value: Any = row
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _with_keys(parts: Sequence[HistoryPart], spec: SampleSpec) -> list[bytes]:
    """The lines in which all keys are found as texts; those of every row are not looked for."""
    own = [_mark(key) for key in spec.keys if not key.startswith("_")]
    marks = [mark for mark in own if mark is not None]
    found: list[bytes] = []
    for part in parts:
        lines = part.of_steps(spec.steps)
        for mark in marks:
            # Mostly each line has it, once: counting is several times as fast as looking.
            if part.data.count(mark) != len(lines):
                lines = [line for line in lines if mark in line]
        found += lines
    return found


def strict(value: Any) -> Any:
    """A value without NaN and infinities, which are texts then."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [strict(each) for each in value]
    return value


def _number(spec: Json, key: str, default: int | None) -> Any:
    value = spec.get(key)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InvalidInputError(f"`{key}` of a specification of samples is not a whole number.")
    return value
