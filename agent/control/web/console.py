"""The console output of a run: for its page as JSON, whole as text."""

import re
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from agent.control.request_data import PLANE, RUN_STREAMS
from agent.control.services.console_lines import ConsoleLine
from agent.control.store.run_streams import StreamRecord
from agent.control.store.runs import RunRecord
from agent.control.web.charts import find_run
from agent.control.web.items import plain_text
from agent.model.errors import InvalidInputError

#: Lines that a page shows, and characters of one of them.
_LINES: Final = 2_000
_MAX_LINE: Final = 8_000
_NUMBER: Final = re.compile("[0-9]{1,15}")


async def lines(request: web.Request) -> web.StreamResponse:
    """Lines from `first` on, at most the last 2,000: `{"end", "lines": [{number, text, …}]}`.

    A process may write a line again, as with progress bars: pages read the last ones again.
    """
    run = await find_run(request)
    first = request.query.get("first", "0")
    if not _NUMBER.fullmatch(first):
        raise InvalidInputError(f"`first` must be a whole number from 0 on; seen: '{first[:40]}'.")
    found, end = await _last_lines(request, run, int(first))
    shown = [
        {"number": line.number, "text": _cut(line.line), "error": line.level == "error"}
        for line in found
    ]
    return web.json_response({"end": end, "lines": shown})


async def download(request: web.Request) -> web.StreamResponse:
    """All lines, as the process wrote them."""
    run = await find_run(request)
    response = web.StreamResponse(headers={"Content-Disposition": "attachment"})
    response.content_type, response.charset = "text/plain", "utf-8"
    await response.prepare(request)
    async for line in _parsed(request, run, 0, None):
        await response.write(f"{line.line}\n".encode())
    await response.write_eof()
    return response


async def tail(request: web.Request, run: RunRecord) -> str:
    """The end of the output as plain text, for pages without scripts."""
    found, _ = await _last_lines(request, run, 0)
    text = "\n".join(_cut(line.line) for line in found)
    return plain_text(text.encode(errors="replace"), from_start=True)


async def _last_lines(
    request: web.Request, run: RunRecord, first: int
) -> tuple[list[ConsoleLine], int]:
    states = await request.app[PLANE].run_streams.states(run.id)
    end = states.get("output", StreamRecord()).line_count
    start = max(first, end - _LINES)
    return [line async for line in _parsed(request, run, start, end)], end


async def _parsed(
    request: web.Request, run: RunRecord, first: int, end: int | None
) -> AsyncIterator[ConsoleLine]:
    async for at, part in request.app[RUN_STREAMS].lines(run.id, "output", first, end):
        for number, line in enumerate(part, at):
            yield ConsoleLine.parse(number, line)


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_LINE else line[:_MAX_LINE] + " …"
