"""One item: its way, its logs, why it is where it is, and the two things to do about it."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from agent.control.files.logs import LogKey, LogStore
from agent.control.keys import LOGS, PLANE, principal_of
from agent.control.store.records import AttemptRecord, ItemRecord
from agent.control.web import present
from agent.control.web.filters import queue_address
from agent.control.web.job_present import job_of
from agent.control.web.pages import show
from agent.control.web.plain import plain_text
from agent.control.web.timeline import steps
from agent.model.phase import Phase

_CHANNELS: Final = (("setup", "Setup"), ("job", "Job"))
#: What a page without scripts shows of a log.
_TAIL: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogView:
    """The log panel as the server draws it."""

    attempt: int
    channel: str
    url: str
    #: `(text, address, whether it is shown)` of each channel.
    tabs: tuple[tuple[str, str, bool], ...]
    tail: str
    remark: str


async def item(request: web.Request) -> web.StreamResponse:
    """The page of an item."""
    plane, principal = request.app[PLANE], principal_of(request)
    record = await plane.items.get(principal, request.match_info["id"])
    attempts = await plane.items.attempts(principal, record.id)
    history = await plane.items.events(principal, record.id)
    return show(
        request,
        "item.html",
        # What an item waits for happens elsewhere, to its queue and to agents.
        urlencode({"item": record.id} | ({"beat": "1"} if record.phase is Phase.QUEUED else {})),
        item=record,
        queue_path=queue_address(record.entity, record.queue),
        timeline=steps(record.phase, history),
        explanation=await plane.items.explain(principal, record.id),
        attempts=attempts,
        history=history,
        facts=present.facts(record),
        job=job_of(record),
        spec=present.pretty(record.run_spec),
        may_stop=present.may_stop(principal, record),
        may_retry=present.may_retry(principal, record),
        log=await _log(request, record, attempts),
    )


async def stop(request: web.Request) -> web.StreamResponse:
    """Stop the item, and show it."""
    record = await request.app[PLANE].items.stop(principal_of(request), request.match_info["id"])
    raise web.HTTPSeeOther(f"/launch/items/{record.id}")


async def retry(request: web.Request) -> web.StreamResponse:
    """Open a new attempt, and show it."""
    record = await request.app[PLANE].items.retry(principal_of(request), request.match_info["id"])
    raise web.HTTPSeeOther(f"/launch/items/{record.id}")


async def _log(
    request: web.Request, record: ItemRecord, attempts: tuple[AttemptRecord, ...]
) -> LogView | None:
    asked = request.query.get("attempt", "")
    number = int(asked) if asked.isascii() and asked.isdigit() else None
    choice = present.choose_log(attempts, number, request.query.get("channel"))
    if choice is None:
        return None
    tail, remark = "", ""
    if request.query.get("fragment") != "1":
        key = LogKey(record.id, choice.attempt, choice.channel)
        tail, remark = await _tail(request.app[LOGS], key)
    pinned = {"attempt": str(choice.pinned)} if choice.pinned else {}
    return LogView(
        attempt=choice.attempt,
        channel=choice.channel,
        url=f"/launch/items/{record.id}/attempts/{choice.attempt}/logs/{choice.channel}",
        tabs=tuple(
            (text, f"?{urlencode(pinned | {'channel': name})}#log", name == choice.channel)
            for name, text in _CHANNELS
        ),
        tail=tail,
        remark=remark,
    )


async def _tail(logs: LogStore, key: LogKey) -> tuple[str, str]:
    """The end of a log as plain text, and what to say about it."""
    end = await logs.end(key)
    if end == 0:
        return "", "Nothing was written yet."
    start = max(0, end - _TAIL)
    data = b"".join([piece async for piece in logs.read(key, start, None)])
    whole = "" if start == 0 else "The end of the log; the raw log has all of it. "
    return plain_text(data, from_start=start == 0), f"{whole}Reload for more."
