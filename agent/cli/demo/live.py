"""The live view of a terminal: a line of stages for each job, output scrolling above."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from agent.cli.demo.view import STAGES, Lines, stage_of
from agent.model.phase import TERMINAL, Phase
from agent.model.units import format_duration

Json = dict[str, Any]

_COLOURS: Final = ("cyan", "magenta", "yellow", "blue", "green")


@dataclass(slots=True)
class _Job:
    colour: str
    phase: str = "submitting"
    stage: str | None = None
    since: float = 0.0
    took: dict[str, float] = field(default_factory=dict)
    over: bool = False
    last: str = ""


class LiveView:
    """See `agent.cli.demo.view.View`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._jobs = {
            name: _Job(_COLOURS[index % len(_COLOURS)]) for index, name in enumerate(names)
        }
        self._lines = Lines()
        self._spinner = Spinner("dots")
        self._console = Console()
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=12)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def progress(self, name: str, item: Json) -> None:
        """See `View`."""
        job, now = self._jobs[name], time.monotonic()
        stage = stage_of(item)
        if stage != job.stage:
            if job.stage is not None:
                job.took[job.stage] = job.took.get(job.stage, 0.0) + now - job.since
            job.stage, job.since = stage, now
        job.phase = str(item["phase"]).lower()
        job.over = Phase(item["phase"]) in TERMINAL

    def output(self, name: str, channel: str, piece: bytes) -> None:
        """See `View`."""
        job = self._jobs[name]
        for line in self._lines.cut(name, channel, piece):
            job.last = line
            style = "" if channel == "job" else "dim"
            text = Text.assemble((f"{name:<7}", job.colour), " ", (line, style))
            text.truncate(self._console.width)
            self._console.print(text)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for name, job in self._jobs.items():
            table.add_row(
                self._sign(job),
                Text(name, style=job.colour),
                *(self._stage(job, stage) for stage in STAGES),
                Text(job.phase, style="bold" if job.over else "dim"),
            )
        return table

    def _sign(self, job: _Job) -> RenderableType:
        if not job.over:
            return self._spinner
        return Text("✓", style="green") if job.phase == "succeeded" else Text("✗", style="red")

    def _stage(self, job: _Job, stage: str) -> Text:
        if job.stage == stage:
            passed = format_duration(time.monotonic() - job.since)
            return Text(f"▶ {stage} {passed}", style="bold")
        if stage in job.took:
            return Text(f"● {stage} {format_duration(job.took[stage])}", style="green")
        # A stage that was too short to be seen has passed all the same.
        passed_by = job.over or (
            job.stage is not None and STAGES.index(stage) < STAGES.index(job.stage)
        )
        return Text(f"{'●' if passed_by else '○'} {stage}", style="green" if passed_by else "dim")
