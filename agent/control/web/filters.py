"""Jinja filters: times, phases (words: `agent.model.phase`), sizes, jobs; the paths of pages."""

import json
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from agent.control.services.jobs import JobVersion
from agent.control.store.agents import AgentRecord
from agent.model.job.names import free_aliases
from agent.model.names import PRIORITIES
from agent.model.phase import Phase

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
_RUN_TONES: Final = {
    "running": "busy",
    "finished": "good",
    "failed": "bad",
    "crashed": "bad",
    "killed": "warn",
    "preempting": "warn",
    "preempted": "warn",
}
_COMMAND: Final = re.compile(r"`([^`\n]+)`")
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
_KIBI: Final = 1024
#: Kinds of source as stored → as users call them.
_SOURCES: Final = {"repo": "git", "artifact": "code", "image": "image"}


def tone(phase: Phase) -> str:
    """The colour class of a phase: idle, busy, good, warn or bad."""
    return _TONES.get(phase, "busy")


def priority(number: int) -> str:
    """`critical`, `high`, `medium` or `low`."""
    return PRIORITIES[number] if 0 <= number < len(PRIORITIES) else str(number)


def agent_word(agent: AgentRecord) -> str:
    """POLLING, RUNNING, DRAINING, stopped or lost."""
    if agent.lost:
        return "lost"
    if agent.status == "KILLED":
        return "stopped"
    return "DRAINING" if agent.stop else agent.status


def agent_tone(agent: AgentRecord) -> str:
    """The colour class of `agent_word`."""
    tones = {"lost": "bad", "stopped": "idle", "DRAINING": "warn", "RUNNING": "busy"}
    return tones.get(agent_word(agent), "good")


def queue_url(entity: str, queue: str) -> str:
    """The path of a queue's page; both names may hold any character."""
    return f"/launch/queues/{quote(entity, safe='')}/{quote(queue, safe='')}"


def job_url(entity: str, project: str, name: str | None = None) -> str:
    """The path of the page of a project's jobs, or of one job."""
    parts = (entity, project) if name is None else (entity, project, name)
    return "/launch/jobs/" + "/".join(quote(part, safe="") for part in parts)


def job_page(job: str) -> str:
    """The path of the page of a job, given as `entity/project/name`."""
    return job_url(*job.split("/", 2))


def last_part(path: str) -> str:
    """What stands behind the last slash."""
    return path.rpartition("/")[2]


def project_url(entity: str, project: str) -> str:
    """The path of a project's page, which W&B's clients print too."""
    return f"/{quote(entity, safe='')}/{quote(project, safe='')}"


def run_url(entity: str, project: str, run: str, tab: str = "") -> str:
    """The path of a run's page, which W&B's clients print too, or of one of its tabs."""
    path = f"{project_url(entity, project)}/runs/{quote(run, safe='')}"
    return f"{path}/{tab}" if tab else path


def run_tone(state: str) -> str:
    """The colour class of a run's state."""
    return _RUN_TONES.get(state, "idle")


def source_word(version: JobVersion | None) -> str:
    """`git`, `code` or `image`; empty when the job file is not valid."""
    kind = version.source_type if version else None
    return _SOURCES.get(kind or "", kind or "")


def plain_choice(text: str) -> str:
    """A choice, given as JSON: a string without its quotes."""
    value = json.loads(text)
    return value if isinstance(value, str) else text


def size(number: float) -> str:
    """`16 GiB`, `1.5 MiB`, `12 bytes`."""
    for unit in _UNITS[:-1]:
        if number < _KIBI:
            return f"{number:.4g} {unit}"
        number /= _KIBI
    return f"{number:.4g} {_UNITS[-1]}"


def age(seconds: float) -> str:
    """`just now`, `12 s ago`, `3 min ago`, `2 h ago`, `4 days ago`."""
    if seconds < _JUST_NOW:
        return "just now"
    for limit, unit, name in ((_MINUTE, 1, "s"), (_HOUR, _MINUTE, "min"), (_DAY, _HOUR, "h")):
        if seconds < limit:
            return f"{int(seconds // unit)} {name} ago"
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
    """How long ago a time was; `live.js` updates it."""
    return _time(at, age((context["now"] - at).total_seconds()), "ago")


@pass_context
def lasted(context: Context, start: datetime, end: datetime | None) -> Markup:
    """How long something took, or has taken so far."""
    if end is not None:
        return escape(length((end - start).total_seconds()))
    return _time(start, length((context["now"] - start).total_seconds()), "since")


@pass_context
def clock(context: Context, at: datetime) -> Markup:
    """A time of day in UTC, with the date unless it is today; `live.js` makes it local."""
    today = at.astimezone(UTC).date() == context["now"].date()
    form = "%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S"
    return _time(at, f"{at.astimezone(UTC):{form}}", "clock")


def commands(text: str) -> Markup:
    """A sentence, escaped, with what is between backticks as code."""
    parts = _COMMAND.split(text)
    return Markup().join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def _time(at: datetime, text: str, style: str) -> Markup:
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}" title="{} UTC" data-style="{}">{}</time>').format(
        utc.isoformat(timespec="milliseconds"), f"{utc:%Y-%m-%d %H:%M:%S}", style, text
    )


def all_filters() -> dict[str, Callable[..., Any]]:
    """Every filter, by its name in templates."""
    filters = (
        *(tone, priority, agent_word, agent_tone, run_tone, source_word, free_aliases),
        *(plain_choice, size, ago, lasted, clock, commands, job_page, last_part),
    )
    return {each.__name__: each for each in filters} | {"shell": shlex.quote}
