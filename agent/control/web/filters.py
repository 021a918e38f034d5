"""How values read on a page: times, phases, priorities, sizes."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from agent.control.store.artifact_records import JobRecord
from agent.control.store.records import AgentRecord, QueueRecord
from agent.control.web.job_present import free_aliases, job_address, source_word
from agent.control.web.present import size
from agent.model.phase import TERMINAL, Phase

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400
_JUST_NOW: Final = 5

_TONES: Final = {
    Phase.QUEUED: "idle",
    Phase.SUCCEEDED: "good",
    Phase.STOPPED: "warn",
    Phase.PREEMPTED: "warn",
    Phase.LOST: "bad",
    Phase.FAILED: "bad",
    Phase.REFUSED: "bad",
    Phase.ERRORED: "bad",
}
_PRIORITIES: Final = ("critical", "high", "medium", "low")
_COMMAND: Final = re.compile(r"`([^`\n]+)`")


def tone(phase: Phase) -> str:
    """The colour family of a phase: idle, busy, good, warn or bad."""
    return _TONES.get(phase, "busy")


def ended(phase: Phase) -> bool:
    """Whether nothing more happens by itself."""
    return phase in TERMINAL


def priority(number: int) -> str:
    """`critical`, `high`, `medium` or `low`."""
    return _PRIORITIES[number] if 0 <= number < len(_PRIORITIES) else str(number)


def agent_word(agent: AgentRecord) -> str:
    """What an agent is doing: POLLING, RUNNING, DRAINING, stopped or lost."""
    if agent.lost:
        return "lost"
    if agent.status == "KILLED":
        return "stopped"
    return "DRAINING" if agent.stop else agent.status


def agent_tone(agent: AgentRecord) -> str:
    """The colour family of `agent_word`."""
    families = {"lost": "bad", "stopped": "idle", "DRAINING": "warn", "RUNNING": "busy"}
    return families.get(agent_word(agent), "good")


def prioritised(queue: QueueRecord) -> bool:
    """Whether its items have priorities."""
    return queue.prioritization == "V0"


def queue_path(queue: QueueRecord) -> str:
    """The address of its page."""
    return queue_address(queue.entity, queue.name)


def queue_address(entity: str, queue: str) -> str:
    """The address of a queue's page; both names may hold any character."""
    return f"/launch/queues/{quote(entity, safe='')}/{quote(queue, safe='')}"


def job_path(job: JobRecord) -> str:
    """The address of a job's page."""
    collection = job.collection
    return job_address(collection.entity, collection.project, collection.name)


def plain_choice(text: str) -> str:
    """The JSON text of a value to choose, as people read it."""
    value = json.loads(text)
    return value if isinstance(value, str) else text


def age(seconds: float) -> str:
    """`just now`, `12 s ago`, `3 min ago`, `2 h ago`, `4 days ago`."""
    if seconds < _JUST_NOW:
        return "just now"
    for unit, name in ((_MINUTE, "s"), (_HOUR, "min"), (_DAY, "h")):
        if seconds < unit:
            previous = {"s": 1, "min": _MINUTE, "h": _HOUR}[name]
            return f"{int(seconds // previous)} {name} ago"
    days = int(seconds // _DAY)
    return "1 day ago" if days == 1 else f"{days} days ago"


def length(seconds: float) -> str:
    """`12 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


@pass_context
def ago(context: Context, at: datetime) -> Markup:
    """A time as the distance from now; the script keeps it right."""
    return _time(at, age((context["now"] - at).total_seconds()), "ago")


@pass_context
def lasted(context: Context, start: datetime, end: datetime | None) -> Markup:
    """How long something took, or takes so far."""
    if end is not None:
        return escape(length((end - start).total_seconds()))
    return _time(start, length((context["now"] - start).total_seconds()), "since")


@pass_context
def clock(context: Context, at: datetime) -> Markup:
    """A time of day in UTC, with the date unless it is today's; the script makes it local."""
    today = at.astimezone(UTC).date() == context["now"].date()
    return _time(
        at, f"{at.astimezone(UTC):{'%H:%M:%S' if today else '%Y-%m-%d %H:%M:%S'}}", "clock"
    )


def commands(text: str) -> Markup:
    """A sentence whose `commands` are set as code; all of it is escaped."""
    parts = _COMMAND.split(text)
    return Markup().join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def _time(at: datetime, text: str, style: str) -> Markup:
    moment = at.astimezone(UTC)
    return Markup('<time datetime="{}" title="{} UTC" data-style="{}">{}</time>').format(
        moment.isoformat(timespec="milliseconds"), f"{moment:%Y-%m-%d %H:%M:%S}", style, text
    )


def all_filters() -> dict[str, Callable[..., Any]]:
    """Every filter by the name that templates use."""
    named = (tone, ended, priority, agent_word, agent_tone, prioritised, queue_path)
    of_jobs = (job_path, source_word, free_aliases, plain_choice, size)
    every = (*named, *of_jobs, ago, lasted, clock, commands)
    return {filter_.__name__: filter_ for filter_ in every}
