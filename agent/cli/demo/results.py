"""The table at the end."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.cli.explain import explanation_lines
from agent.cli.output import between, phase_word, print_table, safe

if TYPE_CHECKING:
    from agent.cli.demo.main import Row


def print_results(rows: "Sequence[Row]", url: str) -> None:
    """What every run was, how it ended and where to look; then why some failed."""
    print()
    print_table(
        ("RUN", "JOB", "SOURCE", "PARAMETERS", "RESULT", "EXIT", "PREPARED IN", "RAN", "PAGE"),
        [_cells(row, url) for row in rows],
        "No jobs.",
    )
    print(f"\nAll of it: {url}/launch, {url}/launch/jobs")
    for row in rows:
        if row.item["phase"] != "SUCCEEDED":
            print()
            print("\n".join(safe(line) for line in explanation_lines(row.item)))


def _cells(row: "Row", url: str) -> tuple[object, ...]:
    item = row.item
    return (
        item["name"],
        row.reference,
        row.source,
        ", ".join(f"{key}={value}" for key, value in row.parameters.items()),
        phase_word(item),
        "-" if item["exitCode"] is None else item["exitCode"],
        between(item["createdAt"], item["startedAt"]) if item["startedAt"] else "-",
        between(item["startedAt"], item["finishedAt"]) if item["startedAt"] else "-",
        f"{url}/launch/items/{item['id']}",
    )
