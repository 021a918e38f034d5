"""Histograms and tables among the last values that a run has logged, as its page shows them."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from agent.control.request_data import RUN_FILES
from agent.control.services.history_keys import flattened
from agent.control.store.runs import RunRecord
from agent.model.errors import LaunchError
from agent.model.spec import Json

#: Histograms and tables of one page; bars, rows and columns of one.
_MAX_HISTOGRAMS: Final = 48
_MAX_TABLES: Final = 12
_MAX_BARS: Final = 512
_MAX_ROWS: Final = 50
_MAX_COLUMNS: Final = 30
#: Bytes of a table's file that is read, and characters of a cell.
_MAX_FILE: Final = 2 * 1024**2
_MAX_CELL: Final = 200
#: No number of a histogram is as large; NaN and infinities are no numbers here.
_LARGE: Final = 1e300


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between edges; of each bar the height in percent of the highest."""

    name: str
    low: str
    high: str
    bars: tuple[int, ...]
    total: str


@dataclass(frozen=True, slots=True)
class Table:
    """The first rows of a logged table."""

    name: str
    path: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    #: Rows and columns of the whole table.
    size: tuple[int, int]


def histograms(record: RunRecord) -> Sequence[Histogram]:
    """The histograms of a run's summary."""
    found = (_histogram(name, value) for name, value in _media(record, "histogram"))
    return [each for each in found if each is not None][:_MAX_HISTOGRAMS]


async def tables(request: web.Request, record: RunRecord) -> Sequence[Table]:
    """The tables of a run's summary; those whose file is absent, large or damaged are left out."""
    found: list[Table] = []
    for name, value in list(_media(record, "table-file"))[:_MAX_TABLES]:
        path = value.get("path")
        if not isinstance(path, str):
            continue
        with suppress(LaunchError, ValueError, RecursionError):
            data = await request.app[RUN_FILES].read(record.id, path, _MAX_FILE)
            table = None if data is None else await asyncio.to_thread(_table, name, path, data)
            found += [table] if table is not None else []
    return found


def _media(record: RunRecord, kind: str) -> Iterator[tuple[str, Json]]:
    for name, value in sorted(flattened(record.summary), key=lambda pair: pair[0]):
        if isinstance(value, dict) and value.get("_type") == kind:
            yield name, value


def _histogram(name: str, value: Json) -> Histogram | None:
    """From `values` with `bins`, which are edges, or with `packedBins`: first edge and width."""
    counts, edges, packed = value.get("values"), value.get("bins"), value.get("packedBins")
    if not isinstance(counts, list) or not 0 < len(counts) <= _MAX_BARS:
        return None
    if not all(_is_number(count) and count >= 0 for count in counts):
        return None
    if isinstance(edges, list) and edges:
        low, high = edges[0], edges[-1]
    elif isinstance(packed, dict) and all(_is_number(packed.get(key)) for key in ("min", "size")):
        low = packed["min"]
        high = low + packed["size"] * len(counts)
    else:
        return None
    if not _is_number(low) or not _is_number(high):
        return None
    most = max(counts) or 1
    bars = tuple(round(100 * (count / most)) for count in counts)
    return Histogram(name, f"{low:.4g}", f"{high:.4g}", bars, f"{sum(counts):.6g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGE


def _table(name: str, path: str, data: bytes) -> Table | None:
    document = json.loads(data)
    columns = document.get("columns") if isinstance(document, dict) else None
    rows = document.get("data") if isinstance(document, dict) else None
    if not isinstance(columns, list) or not isinstance(rows, list):
        return None
    shown = [row for row in rows[:_MAX_ROWS] if isinstance(row, list)]
    return Table(
        name,
        path,
        tuple(_cell(each) for each in columns[:_MAX_COLUMNS]),
        tuple(tuple(_cell(each) for each in row[:_MAX_COLUMNS]) for row in shown),
        (len(rows), len(columns)),
    )


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]} …"
