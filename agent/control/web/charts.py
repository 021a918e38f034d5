"""What charts draw: sampled values of metrics, of one run or of several, as JSON."""

import asyncio
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from aiohttp import web

from agent.control.files.run_history import Series, sampled_series
from agent.control.files.run_streams import RunStreamStore
from agent.control.request_data import PLANE, RUN_STREAMS, principal_of
from agent.control.services.history_keys import flattened
from agent.control.store.run_streams import Stream, StreamRecord
from agent.control.store.runs import RunRecord
from agent.model.errors import InvalidInputError, NotFoundError

#: Runs and metrics of one request, and points of one line.
_MAX_RUNS: Final = 20
_MAX_METRICS: Final = 24
_POINTS: Final = 500
#: Metrics that a page offers; the others are found by their names in the API.
_MAX_OFFERED: Final = 1_000
_STREAMS: Final[dict[str, Stream]] = {"history": "history", "events": "events"}


async def series(request: web.Request) -> web.StreamResponse:
    """`?run=…&key=…`: the lines of these metrics (`key`) of these runs, each once or more.

    `{"RUN": {"KEY": {"steps": […], "seconds": […], "values": […]}}}`. `seconds` count from the
    start of the run; a value is null where NaN or an infinity was logged. Where the program has
    said what a metric goes over, `axis` has the values of that metric and `axisName` its name.
    `stream=events` reads system metrics.
    """
    names, keys = request.query.getall("run", []), request.query.getall("key", [])
    stream = _STREAMS.get(request.query.get("stream", "history"))
    if stream is None or len(names) > _MAX_RUNS or len(keys) > _MAX_METRICS:
        raise InvalidInputError(
            f"A chart takes up to {_MAX_RUNS} runs and {_MAX_METRICS} metrics of `stream=history` "
            "or `stream=events`."
        )
    runs = [await find_run(request, name) for name in dict.fromkeys(names)]
    store = request.app[RUN_STREAMS]
    wanted = [{key: axes.get(key) for key in keys} for axes in map(defined_axes, runs)]
    found = await asyncio.gather(
        *(
            sampled_series(store, run.id, stream, each, _POINTS)
            for run, each in zip(runs, wanted, strict=True)
        )
    )
    lines = {
        run.name: {key: _line(line, axes[key]) for key, line in one.items()}
        for run, one, axes in zip(runs, found, wanted, strict=True)
    }
    return web.json_response(lines)


def defined_axes(run: RunRecord) -> dict[str, str]:
    """What `define_metric(…, step_metric=…)` says: the metric that another one goes over.

    W&B's client keeps it in the config as a list of definitions with numbers for names: 1 is a
    metric, 5 the place, counted from 1, of the definition of its step metric.
    """
    kept = run.config.get("_wandb")
    value = kept.get("value") if isinstance(kept, dict) else None
    listed = value.get("m") if isinstance(value, dict) else None
    given = listed if isinstance(listed, list) else []
    definitions = [one if isinstance(one, dict) else {} for one in given]
    found: dict[str, str] = {}
    for one in definitions:
        name, place = one.get("1"), one.get("5")
        if not isinstance(place, int) or not 1 <= place <= len(definitions):
            continue
        axis = definitions[place - 1].get("1")
        if isinstance(name, str) and isinstance(axis, str):
            found[name.replace("\\.", ".")] = axis.replace("\\.", ".")
    return found


def _line(line: Series, axis: str | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "steps": line.steps,
        "seconds": _finite(line.seconds),
        "values": _finite(line.values),
    }
    return described | ({} if axis is None else {"axis": _finite(line.axis), "axisName": axis})


async def find_run(request: web.Request, name: str | None = None) -> RunRecord:
    """The run that the request's path names, or another one of its project.

    Raises:
        NotFoundError
    """
    info = request.match_info
    name = info["run"] if name is None else name
    place = (info["entity"], info["project"], name)
    run = await request.app[PLANE].runs.get(principal_of(request), *place)
    if run is None:
        where = f"'{info['entity']}/{info['project']}'"
        raise NotFoundError(f"There is no run '{name}' in {where}, or you may not read it.")
    return run


def metrics(state: StreamRecord) -> Sequence[str]:
    """The names of numbers in a history, without those that W&B's client adds (`_step`)."""
    keys = (state.keys or {}).items()
    return _offered(key for key, one in keys if "number" in one["types"])


async def system_metrics(store: RunStreamStore, run_id: str, state: StreamRecord) -> Sequence[str]:
    """The names of numbers in the last row of system metrics."""
    last = max(0, state.line_count - 1)
    rows = [line async for _, part in store.lines(run_id, "events", last) for line in part]
    values = flattened(json.loads(rows[-1])) if rows else ()
    return _offered(key for key, value in values if isinstance(value, int | float))


def _offered(keys: Iterable[str]) -> Sequence[str]:
    return sorted(key for key in keys if not key.startswith("_"))[:_MAX_OFFERED]


def _finite(values: Sequence[float | None]) -> Sequence[float | None]:
    return [value if value is not None and math.isfinite(value) else None for value in values]


def as_attribute(values: Sequence[str]) -> str:
    """Texts for a `data-` attribute, which scripts parse."""
    return json.dumps(values, ensure_ascii=False)
