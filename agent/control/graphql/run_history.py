"""What a run logged: history, system metrics, console lines."""

from typing import Any, Final

from ariadne import ObjectType

from agent.control.files.run_history import (
    DEFAULT_SAMPLES,
    MAX_SAMPLES,
    SampleSpec,
    rows_of_steps,
    sampled_rows,
    sampled_values,
    step_range,
)
from agent.control.graphql.context import Info, Rows, constant, context_of, nested
from agent.control.services.console_lines import ConsoleLine
from agent.control.services.history_keys import wandb_keys
from agent.control.services.paging import cursor
from agent.control.store.run_streams import Stream, StreamRecord
from agent.control.store.runs import RunRecord
from agent.model.errors import InvalidInputError
from agent.model.spec import Json

#: Specifications of one `sampledHistory`, and console lines of one page.
_MAX_SPECS: Final = 100
_MAX_LINES: Final = 10_000
_LINES: Final = 1_000

RUN_HISTORY: Final = ObjectType("Run")
RUN_HISTORY.set_alias("historyLineCount", "history_lines")
#: Histories are read by steps; none is kept in another format.
RUN_HISTORY.set_field("parquetHistory", constant({"parquet_urls": [], "live_data": []}))


async def _stream(run: RunRecord, info: Info, stream: Stream) -> StreamRecord:
    """The state of a stream; that of all three is looked up once per run."""
    context = context_of(info)
    states = await context.once(
        ("streams", run.id), lambda: context.plane.run_streams.states(run.id)
    )
    return states.get(stream, StreamRecord())


@RUN_HISTORY.field("eventsLineCount")
async def _event_count(run: RunRecord, info: Info) -> int:
    return (await _stream(run, info, "events")).line_count


@RUN_HISTORY.field("logLineCount")
async def _log_count(run: RunRecord, info: Info) -> int:
    return (await _stream(run, info, "output")).line_count


@RUN_HISTORY.field("historyTail")
async def _history_tail(run: RunRecord, info: Info) -> list[str]:
    return _tail(await _stream(run, info, "history"))


@RUN_HISTORY.field("eventsTail")
async def _events_tail(run: RunRecord, info: Info) -> list[str]:
    return _tail(await _stream(run, info, "events"))


def _tail(state: StreamRecord) -> list[str]:
    return [state.tail.decode()] if state.tail else []


@RUN_HISTORY.field("systemMetrics")
async def _system_metrics(run: RunRecord, info: Info) -> str:
    """The last row of system metrics."""
    return (await _stream(run, info, "events")).tail.decode() or "{}"


@RUN_HISTORY.field("historyKeys")
async def _history_keys(run: RunRecord, info: Info) -> Json:
    state = await _stream(run, info, "history")
    return wandb_keys(state.keys or {}, state.last_step)


@RUN_HISTORY.field("history")
async def _history(
    run: RunRecord,
    info: Info,
    *,
    min_step: int | None = None,
    max_step: int | None = None,
    samples: int | None = None,
) -> Rows:
    """All rows of some steps; of a whole history, a sample."""
    store = nested(info).run_streams
    if min_step is not None or max_step is not None:
        return Rows(await rows_of_steps(store, run.id, step_range(min_step, max_step)))
    return Rows(await sampled_rows(store, run.id, "history", _samples(samples)))


@RUN_HISTORY.field("events")
async def _events(run: RunRecord, info: Info, *, samples: int | None = None) -> Rows:
    store = nested(info).run_streams
    return Rows(await sampled_rows(store, run.id, "events", _samples(samples)))


def _samples(wanted: int | None) -> int:
    if wanted is not None and wanted < 1:
        raise InvalidInputError(f"`samples` is {wanted}.", hint="Ask for one or more.")
    return min(wanted or DEFAULT_SAMPLES, MAX_SAMPLES)


@RUN_HISTORY.field("sampledHistory")
async def _sampled(run: RunRecord, info: Info, *, specs: list[Any]) -> list[list[Json]]:
    if len(specs) > _MAX_SPECS:
        raise InvalidInputError(f"`specs` has more than {_MAX_SPECS} entries.")
    parsed = [SampleSpec.parse(spec) for spec in specs]
    return [await sampled_values(nested(info).run_streams, run.id, spec) for spec in parsed]


@RUN_HISTORY.field("logLines")
async def _log_lines(
    run: RunRecord,
    info: Info,
    *,
    first: int | None = None,
    last: int | None = None,
    after: str | None = None,
    **_unused: Any,
) -> Json:
    """Console lines from the beginning or behind a cursor, or the last ones."""
    store = nested(info).run_streams
    end = (await _stream(run, info, "output")).line_count
    wanted = min(last or first or _LINES, _MAX_LINES)
    start = max(0, end - wanted) if last else cursor(after) or 0
    lines = [
        ConsoleLine.parse(number, line)
        async for at, part in store.lines(run.id, "output", start, start + wanted)
        for number, line in enumerate(part, at)
    ]
    following = min(start + wanted, end)
    return {
        "edges": [{"node": line, "cursor": str(line.number + 1)} for line in lines],
        "page_info": {"end_cursor": str(following), "has_next_page": following < end},
    }
