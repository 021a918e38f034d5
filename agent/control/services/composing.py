"""From what a submitter wrote and a queue's template to the spec that agents get. Pure."""

from dataclasses import dataclass
from typing import Any, Final

from agent.control.services.templates import check_resource, render, resolve_values
from agent.control.store.records import QueueRecord
from agent.model.capacity import Demand
from agent.model.errors import InvalidInputError
from agent.model.spec import Json, LaunchSpec, parse_spec

DEFAULT_PRIORITY: Final = 2
LOWEST_PRIORITY: Final = 3
_NAMES: Final = ("critical", "high", "medium", "low")
_WORDS: Final = ", ".join(f"{number} {name}" for number, name in enumerate(_NAMES))


@dataclass(frozen=True, slots=True)
class Composed:
    """A submission, merged with its queue's template."""

    spec: LaunchSpec
    run_spec: Json
    #: Who set what: `queue`, `job`, `submitter`.
    layers: dict[str, Json]
    resource: str | None
    demand: Demand
    warnings: tuple[str, ...]


def compose(
    queue: QueueRecord, submitted: Json, values: Any, places: Json, job: Json | None = None
) -> Composed:
    """Render the template, lay the job and the submitter's values over it, and read the result.

    `places` (entity, project, author) are the control plane's to say, and so is the version
    of the job: what the submitter named by an alias is pinned. The queue's resource
    wins over the submitter's: it is what the administrator chose, and W&B's clients send
    one without being asked.

    Raises:
        InvalidInputError: template variables or spec; names path, value and rule.
    """
    template = render(queue.config, resolve_values(queue.template_variables, values))
    asked = submitted.get("resource")
    if asked is not None:
        check_resource(str(asked))
    resource = queue.resource or asked
    layer = job or {}
    pinned = {key: layer[key] for key in ("job",) if key in layer}
    under = merge(template, layer)
    merged = {**merge(under, submitted), **places, **pinned, "resource": resource}
    spec = parse_spec(merged)
    return Composed(
        spec=spec,
        run_spec=merged,
        layers={"queue": template, "job": layer, "submitter": submitted},
        resource=resource,
        demand=spec.demand(resource or ""),
        warnings=(*_ignored(queue, asked), *_idle_arguments(resource, submitted)),
    )


def merge(base: Json, over: Json) -> Json:
    """Objects are merged key by key; anything else is replaced; `None` leaves what is there."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge(below, value)
        elif value is not None or key not in merged:
            merged[key] = value
    return merged


def check_priority(queue: QueueRecord, asked: int | None) -> int:
    """The priority of a new item.

    Raises:
        InvalidInputError: out of range, or the queue has no priorities and this is not the
            default.
    """
    priority = DEFAULT_PRIORITY if asked is None else asked
    if not 0 <= priority <= LOWEST_PRIORITY:
        raise InvalidInputError(f"There is no priority {priority}.", hint=f"Use {_WORDS}.")
    if queue.prioritization == "DISABLED" and priority != DEFAULT_PRIORITY:
        raise InvalidInputError(
            f"Queue '{queue.name}' has no priorities, and `{_NAMES[priority]}` was asked for.",
            hint="Leave the priority out, or let an administrator switch priorities on.",
        )
    return priority


def _idle_arguments(resource: str | None, submitted: Json) -> tuple[str, ...]:
    """Arguments are looked up by resource: those for another one have no effect."""
    given = submitted.get("resource_args") or {}
    others = sorted(name for name, arguments in given.items() if arguments)
    if resource is None or not others or given.get(resource):
        return ()
    names = ", ".join(others)
    return (f"The job runs on {resource}; the submitted arguments for {names} were not used.",)


def _ignored(queue: QueueRecord, asked: Any) -> tuple[str, ...]:
    if asked is None or queue.resource in {None, asked}:
        return ()
    return (f"The queue runs {queue.resource}; the submitted resource {asked} was not used.",)
