"""Records as pages show them: pure, and without a trace of markup."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import yaml

from agent.control.auth.policy import Action, Policy, Principal
from agent.control.store.records import AgentRecord, AttemptRecord, ItemRecord, QueueRecord
from agent.model.phase import TERMINAL, Phase

#: An agent that left or fell silent is shown for so long.
_REMEMBERED: Final = timedelta(days=1)
_RAN: Final = frozenset({Phase.STARTED, Phase.SUCCEEDED, Phase.FAILED})
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
_KIBI: Final = 1024


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue in the table of an entity."""

    queue: QueueRecord
    #: `(first phase, number of items)` for each word that users see.
    counts: tuple[tuple[Phase, int], ...]
    agents: tuple[AgentRecord, ...]


@dataclass(frozen=True, slots=True)
class EntityRows:
    """An entity and its queues."""

    name: str
    queues: tuple[QueueRow, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A template variable; `rule` is its JSON schema."""

    name: str
    rule: str
    description: str


@dataclass(frozen=True, slots=True)
class LogChoice:
    """Which log a page shows."""

    attempt: int
    channel: str
    #: The attempt in links of the page; `None` follows the latest one.
    pinned: int | None


def ordered(counts: Mapping[Phase, int]) -> tuple[tuple[Phase, int], ...]:
    """The number of items by users' word, in the order of an item's life, without zeros.

    Each word is stood for by the first phase that it names.
    """
    first: dict[str, Phase] = {}
    totals: Counter[str] = Counter()
    for phase in Phase:
        first.setdefault(phase.word, phase)
        totals[phase.word] += counts.get(phase, 0)
    return tuple((first[word], number) for word, number in totals.items() if number)


def recent(agents: Iterable[AgentRecord], now: datetime) -> tuple[AgentRecord, ...]:
    """Live agents, then those that went within a day."""
    shown = [a for a in agents if a.live or now - a.heartbeat_at < _REMEMBERED]
    return tuple(sorted(shown, key=lambda agent: not agent.live))


def queue_rows(
    queues: Iterable[QueueRecord],
    counts: Mapping[str, Mapping[Phase, int]],
    agents: Sequence[AgentRecord],
) -> tuple[QueueRow, ...]:
    """Queues with what is on them and who serves them."""
    return tuple(
        QueueRow(
            queue,
            ordered(counts.get(queue.id, {})),
            tuple(agent for agent in agents if queue.id in agent.queue_ids),
        )
        for queue in queues
    )


def variables(queue: QueueRecord) -> tuple[Variable, ...]:
    """The template variables that a submitter may set."""
    return tuple(
        Variable(name, json.dumps(_schema(given)), str(given.get("description") or ""))
        for name, given in queue.template_variables.items()
    )


def _schema(variable: Mapping[str, Any]) -> Any:
    """The schema, which W&B's clients store as a text."""
    schema = variable.get("schema", {})
    try:
        return json.loads(schema) if isinstance(schema, str) else schema
    except ValueError:
        return schema


def template_texts(queue: QueueRecord) -> tuple[str, str]:
    """The queue's template as YAML and as JSON; both empty when it says nothing."""
    given = {key: value for key, value in queue.config.items() if value}
    arguments = given.get("resource_args")
    if not given or (list(given) == ["resource_args"] and not any((arguments or {}).values())):
        return "", ""
    return yaml.safe_dump(given, sort_keys=False, allow_unicode=True), pretty(given)


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def facts(item: ItemRecord) -> tuple[tuple[str, str], ...]:
    """What turned out on the way: commit, image, container and the like."""
    return tuple(
        (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
        for name, value in item.facts.items()
        if value not in (None, "", {}, [])
    )


def capacity(agent: AgentRecord) -> tuple[tuple[str, str], ...]:
    """What an agent offers."""
    offered = agent.capacity
    resources = [("Runners", ", ".join(agent.resources))] if agent.resources else []
    if offered is None:
        return tuple(resources)
    rows = [
        *resources,
        ("Jobs at a time", "any number" if offered.slots is None else str(offered.slots)),
        ("Cores", "" if offered.cpus is None else f"{offered.cpus:g}"),
        ("Memory", "" if offered.memory is None else size(offered.memory)),
        ("GPUs", ", ".join(offered.gpus)),
    ]
    return tuple((name, value) for name, value in rows if value)


def size(number: float) -> str:
    """`16 GiB`, `1.5 MiB`, `12 bytes`."""
    for unit in _UNITS[:-1]:
        if number < _KIBI:
            return f"{number:.4g} {unit}"
        number /= _KIBI
    return f"{number:.4g} {_UNITS[-1]}"


def choose_log(
    attempts: Sequence[AttemptRecord], attempt: int | None, channel: str | None
) -> LogChoice | None:
    """The log that was asked for, else the one where something happens now."""
    known = {record.number: record for record in attempts}
    if not known:
        return None
    record = known.get(attempt or 0) or known[max(known)]
    if channel not in {"setup", "job"}:
        channel = "job" if record.job_log_bytes or record.phase in _RAN else "setup"
    return LogChoice(record.number, channel, attempt if attempt in known else None)


def may_change(principal: Principal, item: ItemRecord) -> bool:
    """Whether stop and retry are worth offering; the services have the last word."""
    policy = Policy()
    if policy.allows(principal, item.entity, Action.CONTROL_ANY):
        return True
    own = item.author == principal.name
    return own and policy.allows(principal, item.entity, Action.CONTROL_OWN)


def may_stop(principal: Principal, item: ItemRecord) -> bool:
    """Whether there is anything left to stop."""
    return item.phase not in TERMINAL and not item.stop_requested and may_change(principal, item)


def may_retry(principal: Principal, item: ItemRecord) -> bool:
    """Whether a new attempt could be opened."""
    again = item.phase in TERMINAL and item.phase is not Phase.SUCCEEDED
    return again and item.queue_id is not None and may_change(principal, item)
