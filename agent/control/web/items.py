"""The page of an item: progress, explanation, log, attempts, history; stop and retry."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from urllib.parse import quote, urlencode

from aiohttp import web

from agent.control.auth.policy import Action, Policy, Principal
from agent.control.files.logs import LogStore
from agent.control.request_data import LOGS, PLANE, principal_of
from agent.control.services.logs import LogKey
from agent.control.store.history import AttemptRecord, Channel, EventRecord
from agent.control.store.items import ItemRecord
from agent.control.store.runs import RunRecord
from agent.control.web.filters import job_url, tone
from agent.control.web.rendering import page
from agent.model.errors import InvalidInputError
from agent.model.job.names import parse_reference
from agent.model.phase import TERMINAL, Phase
from agent.model.spec import Json

_CHANNELS: Final = (("setup", "Setup"), ("job", "Job"))
_NUMBER: Final = re.compile("[0-9]{1,9}")
_RAN: Final = frozenset({Phase.STARTED, Phase.SUCCEEDED, Phase.FAILED})
#: Bytes of a log that a page without scripts shows.
_TAIL: Final = 64 * 1024
_MAX_LINE: Final = 4000
_ESCAPES: Final = re.compile(
    r"\x1b(?:"
    r"\[[0-9;:<=>?]*[ -/]*[@-~]"  # colours and cursor moves
    r"|[\]PX^_].*?(?:\x07|\x1b\\|\Z)"  # titles, links and other strings
    r"|[()#%* ].|[^\[\]PX^_]|\Z)",
    re.DOTALL,
)
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
#: The phase of each step; `LEASED` and `PREPARING` are one step, "preparing".
_STEPS: Final = (Phase.QUEUED, Phase.PREPARING, Phase.PERMITTED, Phase.STARTED)
_STEP_WORDS: Final = tuple(phase.word for phase in _STEPS)


async def item(request: web.Request) -> web.StreamResponse:
    """The page of an item."""
    plane, principal = request.app[PLANE], principal_of(request)
    record = await plane.items.get(principal, request.match_info["id"])
    attempts = await plane.items.attempts(principal, record.id)
    history = await plane.items.events(principal, record.id)
    # Why an item waits depends on its queue and on agents, whose events are not the item's.
    waiting = {"heartbeats": "1"} if record.phase is Phase.QUEUED else {}
    return page(
        request,
        "item.html",
        urlencode({"item": record.id} | waiting),
        item=record,
        timeline=steps(record.phase, history),
        explanation=await plane.items.explain(principal, record.id),
        attempts=attempts,
        history=history,
        facts=facts(record),
        pods=pods(record),
        job=job_of(record),
        run=await _run_of(request, record),
        spec=json.dumps(record.run_spec, indent=2, ensure_ascii=False),
        may_stop=offers_stop(principal, record),
        may_retry=offers_retry(principal, record),
        log=await _log(request, record, attempts),
    )


async def stop(request: web.Request) -> web.StreamResponse:
    """Stop the item and redirect to its page."""
    record = await request.app[PLANE].items.stop(principal_of(request), request.match_info["id"])
    raise web.HTTPSeeOther(f"/launch/items/{record.id}")


async def retry(request: web.Request) -> web.StreamResponse:
    """Open a new attempt and redirect to the item's page."""
    record = await request.app[PLANE].items.retry(principal_of(request), request.match_info["id"])
    raise web.HTTPSeeOther(f"/launch/items/{record.id}")


def offers_stop(principal: Principal, item: ItemRecord) -> bool:
    """Whether to offer stopping; the service decides."""
    return item.phase not in TERMINAL and not item.stop_requested and _may_change(principal, item)


def offers_retry(principal: Principal, item: ItemRecord) -> bool:
    """Whether to offer a new attempt; the service decides."""
    unsuccessful = item.phase in TERMINAL and item.phase is not Phase.SUCCEEDED
    return unsuccessful and item.queue_id is not None and _may_change(principal, item)


def _may_change(principal: Principal, item: ItemRecord) -> bool:
    action = Action.CONTROL_OWN if item.author == principal.name else Action.CONTROL_ANY
    return Policy().allows(principal, item.entity, action)


def facts(item: ItemRecord) -> tuple[tuple[str, str], ...]:
    """What the agent reported about the item, but for its pods: commit, image and the like."""
    return tuple(
        (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
        for name, value in item.facts.items()
        if name != "pods" and value not in (None, "", {}, [])
    )


def pods(item: ItemRecord) -> list[Json]:
    """The item's pods as an agent reported them: name, node, state, details.

    Agents may report anything: what has another form is left out.
    """
    found = item.facts.get("pods")
    return [
        {
            **{name: str(pod.get(name) or "") for name in ("name", "node", "state")},
            "details": [str(each) for each in details] if isinstance(details, list) else [],
        }
        for pod in (found if isinstance(found, list) else ())
        if isinstance(pod, dict)
        for details in [pod.get("details")]
    ]


async def _run_of(request: web.Request, record: ItemRecord) -> RunRecord | None:
    """The run of the latest attempt, once it has begun, if the caller may read it."""
    if record.run_name is None:
        return None
    # Runs are in the entity that the specification names, which may be another than the queue's.
    given = record.run_spec.get("entity")
    entity = given if isinstance(given, str) and given else record.entity
    place = (entity, record.project, record.run_name)
    return await request.app[PLANE].runs.get(principal_of(request), *place)


def job_of(item: ItemRecord) -> tuple[str, str] | None:
    """The job that the item was submitted with: its reference and the path of its page."""
    given = item.run_spec.get("job")
    if not isinstance(given, str):
        return None
    try:
        found = parse_reference(given)
    except InvalidInputError:
        return None
    path = job_url(found.entity, found.project, found.name)
    return str(found), f"{path}?version={quote(found.alias, safe='')}"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an item's progress; `at` is when the latest attempt reached it."""

    text: str
    at: datetime | None
    #: `end` is the phase that an item ended in.
    kind: Literal["done", "now", "ahead", "end"]
    tone: str


def steps(phase: Phase, events: Sequence[EventRecord]) -> tuple[Step, ...]:
    """The progress of the latest attempt; `events` is the item's history, oldest first."""
    reached = _reached(events)
    if phase in TERMINAL:
        end = Step(phase.word, reached.get(phase.word), "end", tone(phase))
    else:
        end = Step("ended", None, "ahead", "idle")
    return (*(_step(each, phase, reached) for each in _STEPS), end)


def _reached(events: Sequence[EventRecord]) -> dict[str, datetime]:
    """When each word became true, since the item was last put on its queue."""
    reached: dict[str, datetime] = {}
    previous: Phase | None = None
    for event in events:
        if event.phase is Phase.QUEUED and previous is not Phase.QUEUED:
            reached = {}
        reached.setdefault(event.phase.word, event.at)
        previous = event.phase
    return reached


def _step(step: Phase, phase: Phase, reached: dict[str, datetime]) -> Step:
    word, at = step.word, reached.get(step.word)
    if word == phase.word:
        return Step(word, at, "now", tone(step))
    passed = phase.word in _STEP_WORDS[_STEP_WORDS.index(word) :]
    return Step(word, at, "done" if at or passed else "ahead", "idle")


@dataclass(frozen=True, slots=True)
class LogView:
    """The log panel as the server renders it."""

    attempt: int
    channel: str
    url: str
    #: `(text, link, whether it is shown)` of each channel.
    tabs: tuple[tuple[str, str, bool], ...]
    tail: str
    remark: str


@dataclass(frozen=True, slots=True)
class LogChoice:
    """Which log a page shows."""

    attempt: int
    channel: Channel
    #: Bytes that are stored.
    end: int
    #: The attempt in links of the page; `None` follows the latest one.
    pinned: int | None


def choose_log(
    attempts: Sequence[AttemptRecord], attempt: int | None, channel: str | None
) -> LogChoice | None:
    """The log that was asked for, else the one of the latest attempt that is being written."""
    known = {record.number: record for record in attempts}
    if not known:
        return None
    record = known.get(attempt or 0) or known[max(known)]
    of_job = channel == "job" or bool(record.job_log_bytes) or record.phase in _RAN
    pinned = attempt if attempt in known else None
    if channel == "setup" or not of_job:
        return LogChoice(record.number, "setup", record.setup_log_bytes, pinned)
    return LogChoice(record.number, "job", record.job_log_bytes, pinned)


async def _log(
    request: web.Request, record: ItemRecord, attempts: tuple[AttemptRecord, ...]
) -> LogView | None:
    wanted = request.query.get("attempt", "")
    number = int(wanted) if _NUMBER.fullmatch(wanted) else None
    choice = choose_log(attempts, number, request.query.get("channel"))
    if choice is None:
        return None
    tail, remark = "", ""
    if request.query.get("fragment") != "1":
        key = LogKey(record.id, choice.attempt, choice.channel)
        tail, remark = await _tail(request.app[LOGS], key, choice.end)
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


async def _tail(logs: LogStore, key: LogKey, end: int) -> tuple[str, str]:
    """The end of a log as plain text, and a remark about it."""
    if end == 0:
        return "", "Nothing was written yet."
    start = max(0, end - _TAIL)
    data = b"".join([piece async for piece in logs.read(key, start, end - start)])
    whole = "" if start == 0 else "The end of the log; download it to see all of it. "
    return plain_text(data, from_start=start == 0), f"{whole}Reload for more."


def plain_text(data: bytes, *, from_start: bool) -> str:
    """A piece of a log without colours, cursor moves and overwritten text.

    Unless it is `from_start` of the log, its first line is incomplete and left out.
    """
    text = _ESCAPES.sub("", data.decode(errors="replace"))
    lines = text.split("\n")
    if not from_start and len(lines) > 1:
        lines = lines[1:]
    return "\n".join(_overwritten(line) for line in lines)


def _overwritten(line: str) -> str:
    """What a terminal shows of a line in the end: the last state of a progress bar."""
    parts = [part for part in line.split("\r") if part]
    shown = _CONTROLS.sub("", parts[-1]) if parts else ""
    return shown if len(shown) <= _MAX_LINE else shown[:_MAX_LINE] + " …"
