"""One row a promise: what was measured, beside what, and whether the promise holds."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """`measured` and `beside` are texts with units; `holds` compares with the promise."""

    what: str
    measured: str
    beside: str
    promise: str
    holds: bool


def render(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    head = "| what | measured | beside | promised | holds |\n|---|---|---|---|---|"
    lines = [
        f"| {r.what} | {r.measured} | {r.beside} | {r.promise} | {'yes' if r.holds else '**no**'} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


def machine() -> str:
    """The machine that figures were taken on."""
    memory = next(
        int(line.split()[1]) / 2**20
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}."
    )
