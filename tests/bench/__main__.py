"""Run all benchmarks and print the table of docs/benchmarks.md: `python -m tests.bench`."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.bench.scenarios import SCENARIOS
from tests.bench.table import Row, machine, render


async def run(names: list[str]) -> list[Row]:
    rows: list[Row] = []
    for name, scenario in SCENARIOS.items():
        if names and name not in names:
            continue
        print(f"… {name}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            found = await scenario(Path(folder))
        for row in found:
            print(f"  {row.what}: {row.measured}; {row.beside}; {row.promise}", file=sys.stderr)
        rows += found
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"scenarios: {', '.join(SCENARIOS)}")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md as well")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"unknown scenario {unknown[0]!r}; known: {', '.join(SCENARIOS)}")
    rows = asyncio.run(run(chosen.names))
    text = render(rows)
    print(machine(), text, sep="\n\n")
    if chosen.write:
        page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
        head, marker, _ = page.read_text().partition("<!-- measured -->")
        page.write_text(f"{head}{marker}\n\n{machine()}\n\n{text}\n")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
