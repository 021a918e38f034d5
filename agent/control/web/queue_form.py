"""The form that makes or changes a queue: checked, its changes shown, then saved.

Nothing is saved that was not shown: what the button saves carries a digest of the shown changes,
and is shown again if the form or the queue has changed since.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Final, Literal

from aiohttp import web

from agent.config.document import format_yaml, parse_document, parse_json
from agent.control.auth.policy import Action, Policy, Principal
from agent.control.bodies import read_form
from agent.control.request_data import PLANE, principal_of
from agent.control.services.assembly import Services
from agent.control.services.queues import SaveMode
from agent.control.services.spec_layers import placeholders, resource_warnings
from agent.control.store.queues import Prioritization, QueueRecord
from agent.control.web.filters import queue_url
from agent.control.web.rendering import page
from agent.model.errors import LaunchError, PermissionDeniedError
from agent.model.names import CONTAINERS, KUBERNETES, PROCESSES
from agent.model.spec import Json

_RESOURCES: Final = (CONTAINERS, PROCESSES, KUBERNETES)
_TYPES: Final = ("string", "integer", "number", "boolean")
_NUMBERS: Final = ("minimum", "maximum")
#: Keys of a variable's schema that have a field, in the order in which they are stored.
_SCHEMA_KEYS: Final = ("type", "default", "enum", *_NUMBERS)
_FIELD: Final = re.compile(r"variable-(\d{1,9})-name")
#: How many variables that nothing declares get fields at once.
_MAX_ADDED: Final = 50
#: Lines of context around a difference.
_CONTEXT: Final = 3
#: Lines between the first and the last change up to which what stayed the same is looked for:
#: `difflib` takes time by the square of their number.
_MAX_COMPARED: Final = 400
_UNPROCESSABLE: Final = 422
#: What jobs of a kind are given, for the page.
EXAMPLES: Final = {
    CONTAINERS: "gpus: '{{gpus}}'\nmemory: 16g\nenv: [HF_HOME=/cache]",
    PROCESSES: "{}",
    KUBERNETES: "kind: Job\nspec:\n  template:\n    spec:\n      containers:\n"
    "        - name: job\n          resources:\n            limits:\n"
    "              nvidia.com/gpu: '{{gpus}}'",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the shown changes."""

    kind: Literal["added", "removed", "same"]
    text: str


@dataclass(frozen=True, slots=True)
class Variable:
    """The fields of one template variable, as texts."""

    name: str = ""
    type: str = ""
    default: str = ""
    #: Allowed values, one a line.
    enum: str = ""
    minimum: str = ""
    maximum: str = ""
    description: str = ""
    #: The rest of its schema, as JSON.
    further: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class QueueForm:
    """The form as its page shows it."""

    entity: str
    #: The queue as it is stored; `None` for a new one.
    current: QueueRecord | None
    name: str = ""
    resource: str = CONTAINERS
    prioritization: Prioritization = "V0"
    #: YAML of what is below `resource_args.<resource>`.
    arguments: str = ""
    #: YAML of the template's other keys.
    others: str = ""
    variables: tuple[Variable, ...] = ()
    #: By name of the field.
    errors: Mapping[str, str] = field(default_factory=dict)
    refusal: str | None = None
    hint: str | None = None
    warnings: tuple[str, ...] = ()
    #: The changes, once the form was checked; empty when there are none.
    changes: tuple[Line, ...] | None = None
    digest: str = ""

    @property
    def resources(self) -> tuple[str, ...]:
        """The kinds that are offered, and the queue's own; it may be "", until one is chosen."""
        own = self.current.resource or "" if self.current else self.resource
        return tuple(dict.fromkeys((*_RESOURCES, own, self.resource)))


async def show_new(request: web.Request) -> web.StreamResponse:
    """The empty form of a new queue."""
    return _page(request, _authorized(request, QueueForm(request.match_info["entity"], None)))


async def show_edit(request: web.Request) -> web.StreamResponse:
    """The form of a queue, filled with its values."""
    return _page(request, _authorized(request, await _stored(request)))


async def send_new(request: web.Request) -> web.StreamResponse:
    """Check a new queue and show it, or make it."""
    return await _send(request, QueueForm(request.match_info["entity"], None))


async def send_edit(request: web.Request) -> web.StreamResponse:
    """Check the changes of a queue and show them, or save them."""
    return await _send(request, await _stored(request))


async def pause(request: web.Request) -> web.StreamResponse:
    """Pause or resume claims from a queue."""
    names = request.match_info
    paused = (await read_form(request)).get("paused") == "yes"
    place = names["entity"], names["queue"]
    await request.app[PLANE].queues.pause(principal_of(request), *place, paused=paused)
    raise web.HTTPSeeOther(queue_url(*place))


async def delete(request: web.Request) -> web.StreamResponse:
    """Delete a queue; with `force` also one with items that are not over, which are stopped."""
    names = request.match_info
    force = (await read_form(request)).get("force") == "yes"
    place = names["entity"], names["queue"]
    await request.app[PLANE].queues.delete(principal_of(request), *place, force=force)
    raise web.HTTPSeeOther("/launch")


def may_manage(principal: Principal, entity: str) -> bool:
    """Whether to offer changes of queues; the service decides."""
    return Policy().allows(principal, entity, Action.MANAGE_QUEUES)


async def _stored(request: web.Request) -> QueueForm:
    names, plane = request.match_info, request.app[PLANE]
    queue = await plane.queues.get(principal_of(request), names["entity"], names["queue"])
    return await plane.checker.run(lambda: _filled(queue))


def _authorized(request: web.Request, form: QueueForm) -> QueueForm:
    """The form, for those who may use it.

    Raises:
        NotFoundError, PermissionDeniedError
    """
    Policy().require(principal_of(request), form.entity, Action.MANAGE_QUEUES)
    return form


def _page(request: web.Request, form: QueueForm, status: int = 200) -> web.Response:
    # No regions: what is being written must stay as it is.
    return page(
        request, "queue_form.html", "", status=status, form=form, types=_TYPES, examples=EXAMPLES
    )


async def _send(request: web.Request, form: QueueForm) -> web.StreamResponse:
    plane, principal = request.app[PLANE], principal_of(request)
    sent = await read_form(request)
    form, values = await plane.checker.run(lambda: read(_authorized(request, form), sent))
    if values is None:
        return _page(request, form, _UNPROCESSABLE)
    mode: SaveMode = "UPDATE" if form.current else "CREATE"
    try:
        form = await _checked(plane, principal, form, values, mode)
        if sent.get("action") != "save" or sent.get("digest") != form.digest or not form.changes:
            return _page(request, form)
        await plane.queues.save(principal, form.entity, form.name, mode=mode, **values)
    except PermissionDeniedError:
        raise
    except LaunchError as error:
        form = replace(form, refusal=error.message, hint=error.hint)
        return _page(request, _with_rows(form, values["config"]), _UNPROCESSABLE)
    raise web.HTTPSeeOther(f"{queue_url(form.entity, form.name)}?tab=settings")


async def _checked(
    plane: Services, principal: Principal, form: QueueForm, values: Json, mode: SaveMode
) -> QueueForm:
    """The form with what saving it would change."""
    after = await plane.queues.check(principal, form.entity, form.name, mode=mode, **values)
    return await plane.checker.run(lambda: _with_changes(form, after))


def _with_changes(form: QueueForm, after: QueueRecord) -> QueueForm:
    before = description(form.current).splitlines() if form.current else []
    changes = tuple(changed_lines(before, description(after).splitlines()))
    text = json.dumps([form.name, before, [[line.kind, line.text] for line in changes]])
    return replace(
        form,
        changes=changes,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        warnings=resource_warnings(after.resource),
    )


def description(queue: QueueRecord) -> str:
    """A queue as the file that `launch queue create -f` reads, for comparison."""
    variables = {name: dict(given) for name, given in queue.template_variables.items()}
    for given in variables.values():
        given["schema"] = _ordered(given.get("schema"))
    whole = {
        "resource": queue.resource,
        "prioritization": queue.prioritization == "V0",
        "config": queue.config,
        "template_variables": variables,
    }
    return format_yaml({name: value for name, value in whole.items() if value not in (None, {})})


def _ordered(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    known = {key: schema[key] for key in _SCHEMA_KEYS if key in schema}
    return known | schema


def changed_lines(before: list[str], after: list[str]) -> Iterator[Line]:
    """The differences with the lines around them; none when both are equal.

    A changed part of many lines is shown as a whole: removed, then added.
    """
    if before == after:
        return
    start = _equal_lines(before, after)
    end = _equal_lines(before[start:][::-1], after[start:][::-1])
    first, removed, added = max(0, start - _CONTEXT), len(before) - end, len(after) - end
    if max(removed, added) - start <= _MAX_COMPARED:
        old, new = before[first : removed + _CONTEXT], after[first : added + _CONTEXT]
        yield from _compared(old, new)
        return
    yield Line("same", "…")
    yield from (Line("same", text) for text in before[first:start])
    yield from (Line("removed", text) for text in before[start:removed])
    yield from (Line("added", text) for text in after[start:added])
    yield from (Line("same", text) for text in after[added : added + _CONTEXT])


def _equal_lines(before: list[str], after: list[str]) -> int:
    """How many they have in common at their beginnings."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
    )


def _compared(before: list[str], after: list[str]) -> Iterator[Line]:
    for line in list(difflib.unified_diff(before, after, lineterm="", n=_CONTEXT))[2:]:
        kinds: dict[str, Literal["added", "removed"]] = {"+": "added", "-": "removed"}
        if line.startswith("@@"):
            yield Line("same", "…")
        else:
            yield Line(kinds.get(line[0], "same"), line[1:])


# ------------------------------------------------------------------ a queue as fields


def _filled(queue: QueueRecord) -> QueueForm:
    resource = queue.resource or ""
    others = json.loads(json.dumps(queue.config))
    arguments = (others.get("resource_args") or {}).pop(resource, None)
    if not others.get("resource_args"):
        others.pop("resource_args", None)
    return QueueForm(
        entity=queue.entity,
        current=queue,
        name=queue.name,
        resource=resource,
        prioritization=queue.prioritization,
        arguments=format_yaml(arguments) if arguments else "",
        others=format_yaml(others) if others else "",
        variables=tuple(
            _variable_fields(name, given) for name, given in queue.template_variables.items()
        ),
    )


def _variable_fields(name: str, given: Json) -> Variable:
    """What a field cannot show, such as a default that is empty, stays among the further rules."""
    schema = dict(given.get("schema") or {})
    type_ = schema.get("type")
    if type_ in _TYPES:
        del schema["type"]
    texts = {key: _shown(key, schema[key], type_) for key in _SCHEMA_KEYS[1:] if key in schema}
    shown = {key: text for key, text in texts.items() if text is not None}
    further = {key: value for key, value in schema.items() if key not in shown}
    return Variable(
        name=name,
        type=type_ if type_ in _TYPES else "",
        description=str(given.get("description") or ""),
        further=json.dumps(further) if further else "",
        **shown,
    )


def _shown(key: str, value: Any, type_: Any) -> str | None:
    """The text of a field; `None` where the value could not be read again from it."""
    if key in _NUMBERS:
        return json.dumps(value)
    if key == "default":
        return _text(value, type_)
    texts = [_text(each, type_) for each in value] if isinstance(value, list) else []
    lines = [text for text in texts if text is not None]
    return "\n".join(lines) if lines and len(lines) == len(texts) else None


def _text(value: Any, type_: Any) -> str | None:
    if type_ != "string":
        return json.dumps(value, ensure_ascii=False)
    one_line = isinstance(value, str) and value and not re.search(r"[\r\n]", value)
    return value if one_line and value == value.strip() else None


# ------------------------------------------------------------------ fields as a queue


def read(form: QueueForm, sent: Mapping[str, str]) -> tuple[QueueForm, Json | None]:
    """The form with what was sent, and the fields of `Queues.save`; `None` where one is wrong."""
    texts = {name: text.replace("\r\n", "\n") for name, text in sent.items()}
    form = replace(
        form,
        name=form.current.name if form.current else texts.get("name", "").strip(),
        resource=texts.get("plugin", "").strip() or texts.get("resource", ""),
        prioritization="V0" if texts.get("prioritization") == "on" else "DISABLED",
        arguments=texts.get("arguments", ""),
        others=texts.get("others", ""),
        variables=tuple(_sent_variables(texts)),
    )
    stored = form.current.template_variables if form.current else {}
    errors: dict[str, str] = {}
    arguments = _document(form.arguments, "arguments", errors)
    config = _document(form.others, "others", errors)
    given = config.pop("resource_args", None) or {}
    if not isinstance(given, dict):
        errors["others"] = "`resource_args` is no mapping."
    elif arguments and not form.resource:
        errors["arguments"] = "Choose what jobs run on: the arguments are those of its runner."
    elif given or arguments:
        own = {form.resource: arguments} if form.resource else {}
        config["resource_args"] = {**given, **own}
    variables, read_fields = {}, []
    for fields in form.variables:
        value, error = _variable(fields, stored.get(fields.name, {}))
        if fields.name in variables:
            error = "There are two of this name."
        variables[fields.name] = value
        read_fields.append(replace(fields, error=error))
    form = replace(form, variables=tuple(read_fields), errors=errors)
    if errors or any(each.error for each in read_fields):
        return form, None
    return form, {
        "resource": form.resource or (None if form.current else ""),
        "config": config,
        "template_variables": variables,
        "prioritization": form.prioritization,
    }


def _document(text: str, name: str, errors: dict[str, str]) -> Json:
    try:
        return parse_document(text, "line").data
    except LaunchError as error:
        errors[name] = error.message.replace("line:", "Line ", 1)
        return {}


def _sent_variables(texts: Mapping[str, str]) -> Iterator[Variable]:
    names = [each for each in Variable.__dataclass_fields__ if each != "error"]
    for index in sorted(int(found[1]) for found in map(_FIELD.fullmatch, texts) if found):
        given = {name: texts.get(f"variable-{index}-{name}", "").strip() for name in names}
        if given["name"]:
            yield Variable(**given)


def _variable(fields: Variable, before: Json) -> tuple[Json, str | None]:
    """A variable as it is stored, and what is wrong with its fields.

    What has no field stays as it was `before`.
    """
    schema: Json = {"type": fields.type} if fields.type else {}
    place = ""
    try:
        place = "default"
        if fields.default:
            schema["default"] = _value(fields, fields.default)
        place = "allowed values"
        if choices := [line.strip() for line in fields.enum.split("\n") if line.strip()]:
            schema["enum"] = [_value(fields, each) for each in choices]
        for place in _NUMBERS:
            if text := getattr(fields, place):
                schema[place] = parse_json(text)
        place = "further rules"
        further = parse_json(fields.further or "{}")
        if not isinstance(further, dict):
            return {}, 'The further rules are no JSON object; write {"multipleOf": 2}.'
    except ValueError as error:
        return {}, f"Its {place}: {error}."
    if twice := ", ".join(f"`{key}`" for key in schema if key in further):
        return {}, f"{twice}: given in a field and among the further rules; leave one of them out."
    kept = {key: value for key, value in before.items() if key not in {"schema", "description"}}
    said, said_before = fields.description, before.get("description") or ""
    if "".join(said.split()) == "".join(str(said_before).split()):
        said = said_before  # the field shows no line breaks
    return {"schema": schema | further, **kept} | ({"description": said} if said else {}), None


def _value(fields: Variable, text: str) -> Any:
    return text if fields.type == "string" else parse_json(text)


def _with_rows(form: QueueForm, config: Json) -> QueueForm:
    """With fields for the variables that the template uses and nothing declares."""
    known = {each.name for each in form.variables}
    missing = dict.fromkeys(name for name in placeholders(config) if name not in known)
    added = [Variable(name, type="string", error="Say what it may be.") for name in missing]
    return replace(form, variables=(*form.variables, *added[:_MAX_ADDED]))
