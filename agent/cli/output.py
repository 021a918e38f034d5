"""Printing: tables on terminals, plain columns into pipes, JSON."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from agent.cli.terminal import escape_control_characters
from agent.model.phase import Phase
from agent.model.units import format_duration

#: Column title -> function that reads the value from a record.
Columns = Mapping[str, Callable[[Any], object]]

#: What `json.dumps` leaves as it is and a terminal obeys.
_NOT_ESCAPED: Final = re.compile(r"[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_COLOURS: Final = {
    "succeeded": "green",
    "failed": "red",
    "error": "red",
    "refused": "red",
    "lost": "red",
    "preempted": "yellow",
    "stopped": "yellow",
    "running": "cyan",
    "paused": "yellow",
    "lost contact": "red",
}


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(_NOT_ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table on a terminal, aligned columns elsewhere; `empty` when there are no rows."""
    # A line break in a name must not look like a further row.
    cells = [[escape_control_characters(cell).replace("\n", "\\n") for cell in row] for row in rows]
    if not cells:
        print(empty)
    elif sys.stdout.isatty():
        _print_rich(columns, cells)
    else:
        _print_plain(columns, cells)


def print_list(found: list[Any], columns: Columns, empty: str, *, as_json: bool) -> None:
    """Records as JSON, or as a table of the columns' titles and values."""
    if as_json:
        print_json(found)
    else:
        rows = [[value(each) for value in columns.values()] for each in found]
        print_table(tuple(columns), rows, empty)


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """`name  value` lines; empty values are left out."""
    shown = [
        (name, escape_control_characters(value))
        for name, value in pairs
        if value is not None and value != ""
    ]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *rest = value.splitlines() or [""]
        print(f"{name:<{width}}  {first}")
        for line in rest:
            print(f"{'':<{width}}  {line}")


def print_stderr(text: str) -> None:
    """A line on standard error, so that standard output has results only."""
    print(escape_control_characters(text), file=sys.stderr, flush=True)


def format_age(text: str | None) -> str:
    """How long ago an ISO-8601 time was: `12 s ago`."""
    passed = format_elapsed(text, None)
    return f"{passed} ago" if passed else ""


def format_elapsed(start: str | None, end: str | None) -> str:
    """The duration between two ISO-8601 times, or until now."""
    first, last = _parse_time(start), _parse_time(end)
    if first is None:
        return ""
    return format_duration(max(((last or datetime.now(UTC)) - first).total_seconds(), 0.0))


def _parse_time(text: str | None) -> datetime | None:
    """An ISO-8601 time; without a zone it is UTC, as in answers of the server."""
    if not text:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def phase_word(item: dict[str, Any]) -> str:
    """An item's phase as it is shown: `lost contact`, else `Phase.word`."""
    return "lost contact" if item.get("lostContact") else Phase(item["phase"]).word


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    Console().print(table)


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [list(columns), *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())
