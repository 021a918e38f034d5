"""Rows of a run's history, read for W&B's clients and for charts: by step, and sampled."""

import asyncio
import json
import math
import re
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
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
#: Lines by which a guess of where a line is may be wrong, before all of them are taken apart.
_NEAR: Final = 32
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


_ALL: Final = step_range(None, None)


async def rows_of_steps(store: RunStreamStore, run_id: str, steps: range) -> list[str]:
    """All rows of these steps, as their process wrote them."""
    found: list[str] = []
    async for parts in _batches(store, run_id, steps):
        found += await asyncio.to_thread(_texts, parts, steps)
    return found


async def sampled_rows(
    store: RunStreamStore, run_id: str, stream: Stream, samples: int
) -> list[str]:
    """At most so many rows at even distances; the first and the last are among them."""
    rows = _RowIndex([part async for part in store.steps(run_id, _ALL, stream)], _ALL)
    found = await asyncio.to_thread(lambda: list(rows.at(even(len(rows), samples))))
    return [line.decode() for _, line in found]


async def sampled_values(store: RunStreamStore, run_id: str, spec: SampleSpec) -> list[Json]:
    """The wanted keys of rows that have all of them, at even distances.

    Only as many rows as are wanted are decoded: a history has a hundred thousand. NaN and the
    infinities are texts, since strict JSON has none.
    """
    parts = [part async for part in store.steps(run_id, spec.steps)]
    return await asyncio.to_thread(_values, parts, spec)


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
    #: Values of another metric in the same rows, if one was asked for.
    axis: list[float | None]


async def sampled_series(
    store: RunStreamStore,
    run_id: str,
    stream: Stream,
    keys: Mapping[str, str | None],
    samples: int,
) -> dict[str, Series]:
    """Numbers of each key, at even distances among the rows that have it.

    `keys` has for each key another one, whose values in the same rows come with it.
    """
    parts = [part async for part in store.steps(run_id, _ALL, stream)]
    return await asyncio.to_thread(_all_series, parts, keys, samples)


def _all_series(
    parts: Sequence[HistoryPart], keys: Mapping[str, str | None], samples: int
) -> dict[str, Series]:
    rows = _RowIndex(parts, _ALL)
    found: dict[str, Series] = {}
    for key, axis in keys.items():
        found[key] = _series(rows.sample([key], samples), key, axis)
    return found


class _RowIndex:
    """The rows of some steps by index, found without taking all parts of a history apart."""

    def __init__(self, parts: Sequence[HistoryPart], steps: range) -> None:
        self._parts = parts
        #: Of a part that has other rows, too: those of the steps.
        self._lines = [
            None if part.is_whole and part.is_within(steps) else part.of_steps(steps)
            for part in parts
        ]
        counts = [
            part.segment.end_line - part.segment.first_line if lines is None else len(lines)
            for part, lines in zip(parts, self._lines, strict=True)
        ]
        #: Of each part the index of its first row, and at the end the number of all rows.
        self._starts = [0, *accumulate(counts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def sample(self, keys: Sequence[str], wanted: int) -> list[tuple[int, Json]]:
        """At most `wanted` of the rows that have all keys, at even distances; as `at`.

        Keys that begin with `_` are not looked for at first: mostly every row has them.
        """
        having = self._having([key for key in keys if not key.startswith("_")])
        found = self._even(having, wanted)
        if len(having) > wanted and not all(_has(row, keys) for _, row in found):
            # Some have a key only in another object or within a text: all are decoded.
            rows = zip(having, self.at(having), strict=True)
            exact = [index for index, (_, line) in rows if _has(json.loads(line), keys)]
            found = self._even(exact, wanted)
        return found

    def _even(self, indexes: Sequence[int], wanted: int) -> list[tuple[int, Json]]:
        chosen = [indexes[number] for number in even(len(indexes), wanted)]
        return [(number, json.loads(line)) for number, line in self.at(chosen)]

    def _having(self, keys: Sequence[str]) -> Sequence[int]:
        """The rows in which all keys are found as texts."""
        marks = [mark for key in keys if (mark := _mark(key)) is not None]
        # Mostly each row has them, once: counting is several times as fast as looking.
        if all(self._is_in_each(mark) for mark in marks):
            return range(len(self))
        found: list[int] = []
        for number, start in enumerate(self._starts[:-1]):
            lines = enumerate(self._lines_of(number), start)
            found += [index for index, line in lines if all(mark in line for mark in marks)]
        return found

    def _is_in_each(self, mark: bytes) -> bool:
        return all(
            sum(mark in line for line in lines) == len(lines)
            if lines is not None
            else part.data.count(mark) == self._starts[number + 1] - self._starts[number]
            for number, (part, lines) in enumerate(zip(self._parts, self._lines, strict=True))
        )

    def _lines_of(self, number: int) -> Sequence[bytes]:
        lines = self._lines[number]
        part = self._parts[number]
        return part.segment.lines(part.data) if lines is None else lines

    def at(self, indexes: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Rows by rising indexes, each with the number of its line."""
        first = 0
        for number, start in enumerate(self._starts[:-1]):
            last = bisect_left(indexes, self._starts[number + 1], lo=first)
            within = [index - start for index in indexes[first:last]]
            first = last
            part, lines = self._parts[number], self._lines[number]
            if lines is None:
                count = self._starts[number + 1] - start
                found: Iterable[bytes] = _lines_at(part.data, count, within)
            else:
                found = [lines[index] for index in within]
            line = part.segment.first_line
            yield from ((line + index, one) for index, one in zip(within, found, strict=True))


def _lines_at(data: bytes, count: int, wanted: Sequence[int]) -> Sequence[bytes]:
    """Of `count` lines those with rising indexes: found near where they are if all are as long."""
    found: list[bytes] = []
    line = offset = 0
    for index in wanted:
        guess = offset + (len(data) - offset) * (index - line) // (count - line)
        at = max(data.rfind(b"\n", offset, guess) + 1, offset)
        line += data.count(b"\n", offset, at)
        if abs(line - index) > _NEAR or len(wanted) * _NEAR > count:
            lines = data.split(b"\n")
            return [lines[each] for each in wanted]
        for _ in range(line, index):
            at = data.index(b"\n", at) + 1
        for _ in range(index, line):
            at = data.rfind(b"\n", 0, at - 1) + 1
        line, offset = index, at
        found.append(data[at : data.index(b"\n", at)])
    return found


def _mark(key: str) -> bytes | None:
    """What is in each line that has the key; `None` when encoders may write it differently."""
    _, dot, last = key.rpartition(".")
    mark = f'{last}"' if dot else f'"{last}"'
    return mark.encode() if _PLAIN.fullmatch(last) else None


def _series(sample: Iterable[tuple[int, Json]], key: str, axis: str | None) -> Series:
    series = Series([], [], [], [])
    for number, row in sample:
        value, seconds = _as_float(_value(row, key)), _as_float(row.get("_runtime"))
        if value is not None:
            series.steps.append(step_of(row, number))
            series.seconds.append(seconds)
            series.values.append(value)
            if axis is not None:
                series.axis.append(_as_float(_value(row, axis)))
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


def _values(parts: Sequence[HistoryPart], spec: SampleSpec) -> list[Json]:
    rows = _RowIndex(parts, spec.steps)
    chosen: list[Json] = []
    for _, row in rows.sample(spec.keys, min(spec.samples, MAX_SAMPLES)):
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


def _has(row: Json, keys: Sequence[str]) -> bool:
    return all(_value(row, key) is not _MISSING for key in keys)


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
