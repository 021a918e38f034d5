"""The form that launches a job again: drawn from its inputs, read and checked, submitted.

A JSON schema describes the inputs best; without one the types of an earlier run are used. What
neither has is entered as a JSON object beside the fields.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, Literal

from agent.config.document import parse_json
from agent.control.auth.policy import Principal
from agent.control.services.assembly import Services
from agent.control.services.input_schemas import CONFIG_KEY, to_json_schema
from agent.control.services.jobs import JobVersion
from agent.control.services.schema_checks import quoted
from agent.control.store.items import ItemRecord, Submission
from agent.control.store.queues import QueueRecord
from agent.model.errors import LaunchError
from agent.model.json_schema import UnusableSchemaError, violations
from agent.model.names import DEFAULT_QUEUE
from agent.model.spec import Json

FieldKind = Literal["number", "integer", "choice", "choices", "text", "json"]

#: Name of the form's field for a JSON object.
OTHERS: Final = "others"

_MAX_FIELDS: Final = 200
#: Objects nested deeper are one field of JSON.
_MAX_DEPTH: Final = 6
_KINDS: Final[Mapping[str, FieldKind]] = {
    "number": "number",
    "integer": "integer",
    "string": "text",
}
_BOOLEAN: Final = (True, False)
_EXPECTED: Final = {"number": "a number, such as 0.01", "integer": "a whole number", "json": "JSON"}


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter of a job, or one template variable of a queue."""

    #: Keys that lead to it in the run's configuration; of a variable, queue and name.
    path: tuple[str, ...]
    kind: FieldKind
    label: str
    description: str = ""
    placeholder: str = ""
    required: bool = False
    #: The allowed values, as JSON.
    choices: tuple[str, ...] = ()
    #: What the form shows: nothing, one text, or several for kind `choices`.
    texts: tuple[str, ...] = ()
    error: str | None = None
    group: Literal["config", "variable"] = "config"

    @property
    def name(self) -> str:
        """Its name in the form's data; keys may contain any character."""
        return f"{self.group}{json.dumps(self.path)}"

    @property
    def id(self) -> str:
        """Its HTML id, which must not contain spaces."""
        return f"field-{self.name.encode().hex()}"

    @property
    def text(self) -> str:
        """The text of a field with one value."""
        return self.texts[0] if self.texts else ""


@dataclass(frozen=True, slots=True)
class Sent:
    """A submitted form: names and texts, as a browser sends them."""

    values: Mapping[str, Sequence[str]]

    def text(self, name: str) -> str:
        """One text; empty when the field is absent."""
        return next(iter(self.values.get(name, ())), "").strip()

    def texts(self, name: str) -> tuple[str, ...]:
        """All texts that are not empty."""
        return tuple(text for text in self.values.get(name, ()) if text.strip())


@dataclass(frozen=True, slots=True)
class Parameters:
    """The run's configuration that a submitted form describes."""

    config: Json
    #: With the submitted texts and their errors.
    fields: tuple[Field, ...]
    #: What is wrong with the JSON object of further parameters.
    others_error: str | None = None

    @property
    def has_errors(self) -> bool:
        """Whether anything must be corrected."""
        return self.others_error is not None or any(field.error for field in self.fields)


@dataclass(frozen=True, slots=True)
class Form:
    """The form as its page shows it."""

    #: Random for each form that is shown, so that sending it twice submits one item.
    token: str
    queues: tuple[str, ...]
    queue: str
    name: str
    fields: tuple[Field, ...]
    others: str
    #: By queue: those that have template variables.
    variables: Mapping[str, tuple[Field, ...]]
    others_error: str | None = None
    #: The error of the submission, and its hint.
    refusal: str | None = None
    hint: str | None = None


def prefilled_form(
    version: JobVersion, queues: Sequence[QueueRecord], last: ItemRecord | None
) -> Form:
    """The form, filled with the parameters of the latest item."""
    overrides = _object(last.run_spec.get("overrides")) if last else {}
    config = _object(overrides.get("run_config"))
    fields = fields_of(_schema_of(version), _types_of(version), config)
    rest = without_fields(fields, config)
    queue = last.queue if last is not None else DEFAULT_QUEUE
    names = tuple(each.name for each in queues)
    return Form(
        token=secrets.token_hex(8),
        queues=names,
        queue=queue if queue in names else next(iter(names), ""),
        variables={each.name: _variables_of(each) for each in queues if each.template_variables},
        name=version.artifact.collection.name,
        fields=fields,
        others=json.dumps(rest, indent=2, ensure_ascii=False) if rest else "",
    )


def _variables_of(queue: QueueRecord) -> tuple[Field, ...]:
    fields = []
    for name, given in queue.template_variables.items():
        schema = _object(given.get("schema"))
        shown = _of_property(schema, (queue.name, name))
        described = str(given.get("description") or shown.description)
        required = "default" not in schema
        fields.append(
            replace(shown, label=name, description=described, required=required, group="variable")
        )
    return tuple(fields)


async def submit(
    plane: Services, principal: Principal, version: JobVersion, form: Form, sent: Sent
) -> ItemRecord | Form:
    """Submit the job as the form says; returns the form with its errors when that fails."""
    parameters = await plane.checker.run(
        lambda: read_parameters(form.fields, _schema_of(version), sent)
    )
    queue = sent.text("queue")
    values: Json = {}
    variables = tuple(_read_field(values, each, sent) for each in form.variables.get(queue, ()))
    read = replace(
        form,
        queue=queue,
        name=sent.text("name"),
        fields=parameters.fields,
        others=sent.text(OTHERS),
        variables={**form.variables, **({queue: variables} if variables else {})},
        others_error=parameters.others_error,
    )
    if parameters.has_errors or any(each.error for each in variables):
        return read
    chosen = values.get(queue, {})
    submission = _submission(version, read, parameters.config, chosen, sent.text("token"))
    try:
        return await plane.items.submit(principal, submission)
    except LaunchError as error:
        return replace(read, refusal=error.message, hint=error.hint)


def _submission(
    version: JobVersion, form: Form, config: Json, variables: Json, token: str
) -> Submission:
    collection = version.artifact.collection
    spec: Json = {"job": version.reference, "overrides": {"run_config": config}}
    if form.name:
        spec["name"] = form.name
    content = json.dumps([token, form.queue, spec, variables], sort_keys=True)
    return Submission(
        entity=collection.entity,
        project=collection.project,
        queue=form.queue,
        run_spec=spec,
        template_variables=variables,
        idempotency_key=f"form-{hashlib.sha256(content.encode()).hexdigest()}",
    )


def _schema_of(version: JobVersion) -> Json:
    """The JSON schema of the run's configuration; empty when the job has none."""
    return _object(to_json_schema(version.input_schemas.get(CONFIG_KEY)))


def _types_of(version: JobVersion) -> Json:
    """The type tree of the run's configuration: of the metadata, else of the job file."""
    declared = _object(version.artifact.metadata.get("input_types"))
    job_file = version.artifact.job_file or {}
    return _object(declared.get(CONFIG_KEY)) or declared or _object(job_file.get("input_types"))


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def fields_of(schema: Json, types: Json, last: Json) -> tuple[Field, ...]:
    """The fields, filled with the values of the latest item, else with the schema's defaults.

    Args:
        schema: JSON schema of the run's configuration; empty when there is none.
        types: W&B's type tree of it; used when there is no schema.
        last: the run's configuration of the latest item.
    """
    found = _of_schema(schema, ()) if schema else _of_types(types, ())
    return tuple(_filled(field, last) for field in islice(found, _MAX_FIELDS))


def without_fields(fields: Sequence[Field], last: Json) -> Json:
    """The part of the latest item's configuration that no field shows."""
    rest: Json = json.loads(json.dumps(last))
    for field in fields:
        _remove(rest, field.path)
    return rest


def _of_schema(schema: Json, path: tuple[str, ...]) -> Iterator[Field]:
    listed = schema.get("required")
    words = listed if isinstance(listed, list) else ()
    required = {name for name in words if isinstance(name, str)}
    for name, each in _objects(schema.get("properties")):
        here = (*path, name)
        if isinstance(each.get("properties"), dict) and len(here) < _MAX_DEPTH:
            yield from _of_schema(each, here)
        else:
            yield replace(_of_property(each, here), required=name in required)


def _objects(properties: object) -> Iterator[tuple[str, Json]]:
    if isinstance(properties, dict):
        yield from ((str(k), v) for k, v in properties.items() if isinstance(v, dict))


def _of_property(schema: Json, path: tuple[str, ...]) -> Field:
    kind, choices = _kind(schema)
    field = Field(
        path,
        kind,
        label=_words(schema, "title", "label") or ".".join(path),
        description=_words(schema, "description"),
        placeholder=_words(schema, "placeholder"),
        choices=tuple(json.dumps(choice) for choice in choices),
    )
    return _with_value(field, schema["default"]) if "default" in schema else field


def _kind(schema: Json) -> tuple[FieldKind, Sequence[Any]]:
    items = schema.get("items")
    if isinstance(schema.get("enum"), list):
        return "choice", schema["enum"]
    if isinstance(items, dict) and isinstance(items.get("enum"), list):
        return "choices", items["enum"]
    if schema.get("type") == "boolean":
        return "choice", _BOOLEAN
    return _KINDS.get(str(schema.get("type")), "json"), ()


def _words(schema: Json, *keys: str) -> str:
    return next((str(schema[key]) for key in keys if schema.get(key)), "")


def _of_types(tree: Json, path: tuple[str, ...]) -> Iterator[Field]:
    for name, each in _objects(_map(tree)):
        here = (*path, name)
        if _map(each) and len(here) < _MAX_DEPTH:
            yield from _of_types(each, here)
        elif each.get("wb_type") == "boolean":
            choices = tuple(json.dumps(choice) for choice in _BOOLEAN)
            yield Field(here, "choice", ".".join(here), choices=choices)
        else:
            yield Field(here, _KINDS.get(str(each.get("wb_type")), "json"), ".".join(here))


def _map(tree: Json) -> Any:
    """The types of an object's values; `None` for any other type."""
    parameters = tree.get("params")
    return parameters.get("type_map") if isinstance(parameters, dict) else None


def _filled(field: Field, last: Json) -> Field:
    found: Any = last
    for key in field.path:
        if not isinstance(found, dict) or key not in found:
            return field
        found = found[key]
    return _with_value(field, found)


def _with_value(field: Field, value: Any) -> Field:
    if field.kind == "choices" and isinstance(value, list):
        return replace(field, texts=tuple(json.dumps(each) for each in value))
    if field.kind == "text" and isinstance(value, str):
        return replace(field, texts=(value,))
    if field.kind == "text":
        return replace(field, kind="json", texts=(json.dumps(value),))
    return replace(field, texts=(json.dumps(value, ensure_ascii=False),))


def _remove(config: Json, path: tuple[str, ...]) -> None:
    """Remove a value, and the objects that are empty without it."""
    first, *rest = path
    if not rest:
        config.pop(first, None)
    elif isinstance(config.get(first), dict):
        _remove(config[first], tuple(rest))
        if not config[first]:
            del config[first]


def read_parameters(fields: Sequence[Field], schema: Json, sent: Sent) -> Parameters:
    """Read and check a submitted form.

    An empty field is left out, so that the job's own default applies.
    """
    config, others_error = read_object(sent.text(OTHERS))
    read = tuple(_read_field(config, field, sent) for field in fields)
    parameters = Parameters(config, read, others_error)
    return _checked(parameters, schema) if schema and not parameters.has_errors else parameters


def _read_field(config: Json, field: Field, sent: Sent) -> Field:
    return _put(config, replace(field, texts=sent.texts(field.name)))


def read_object(text: str) -> tuple[Json, str | None]:
    """A JSON object, and the error if it is not one; an empty text is an empty object."""
    try:
        value = parse_json(text) if text else {}
    except ValueError as error:
        return {}, f"This is not JSON: {error}."
    if not isinstance(value, dict):
        return {}, 'This is not a JSON object; write {"name": value}.'
    return value, None


def _put(config: Json, field: Field) -> Field:
    """Put a field's value into the configuration; returns the field with its error, if any."""
    if not field.texts:
        return replace(field, error="A value is required.") if field.required else field
    try:
        value = _value(field)
    except ValueError:
        expected = _EXPECTED.get(field.kind, "one of the choices")
        return replace(field, error=f"'{field.text}' is not {expected}.")
    inner = config
    for key in field.path[:-1]:
        below = inner.setdefault(key, {})
        if not isinstance(below, dict):
            return replace(field, error=f"'{key}' in the JSON object below is not an object.")
        inner = below
    inner[field.path[-1]] = value
    return field


def _value(field: Field) -> Any:
    text = field.text.strip()
    match field.kind:
        case "text":
            return field.text
        case "integer":
            return _integer(text)
        case "number":
            return _number(text)
        case "choices":
            return [_chosen(field, each) for each in field.texts]
        case "choice":
            return _chosen(field, text)
        case "json":
            return parse_json(text)


def _integer(text: str) -> int:
    """ASCII digits only; `1_000` and other digits are more likely mistakes."""
    if text.isascii() and "_" not in text:
        return int(text)
    raise ValueError(text)


def _number(text: str) -> int | float:
    value = parse_json(text)
    if type(value) in {int, float}:
        return value  # type: ignore[no-any-return]
    raise ValueError(text)


def _chosen(field: Field, text: str) -> Any:
    if text not in field.choices:
        raise ValueError(text)
    return json.loads(text)


def _checked(parameters: Parameters, schema: Json) -> Parameters:
    """The same with violations of the schema, each beside the field that it concerns."""
    known = {field.path for field in parameters.fields}
    errors: dict[tuple[str, ...], str] = {}
    elsewhere: list[str] = []
    try:
        found = violations(schema, parameters.config, _MAX_FIELDS)
    except UnusableSchemaError as error:
        return replace(parameters, others_error=f"The job's schema cannot be used: {error}")
    for violation in found:
        path = tuple(map(str, violation.path))
        rule = f"{violation.keyword}: {quoted(violation.rule)}"
        sentence = f"{quoted(violation.value)} breaks the rule `{rule}`."
        parents = (path[:length] for length in range(len(path), 0, -1))
        field = next((each for each in parents if each in known), None)
        if field is None:
            elsewhere.append(f"`{'.'.join(path)}`: {sentence}" if path else sentence)
        else:
            errors.setdefault(field, sentence)
    fields = tuple(replace(each, error=errors.get(each.path)) for each in parameters.fields)
    return replace(parameters, fields=fields, others_error=" ".join(elsewhere) or None)
