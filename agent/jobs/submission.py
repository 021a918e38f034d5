"""From the options of a submission to its launch spec, and to its template variables."""

import json
import math
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agent.jobs.request import SubmitOptions
from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.job.image_reference import parse_image
from agent.model.names import DEFAULT_QUEUE, did_you_mean
from agent.model.spec import parse_spec

if TYPE_CHECKING:
    from agent.remote.user_operations import UserOperations

Json = dict[str, Any]


def launch_spec(options: SubmitOptions, job: str | None) -> Json:
    """The launch spec of a submission; `job` is the reference of its job, made or existing.

    Of a job that was made from `uri`, the spec repeats the entry point and the Dockerfile, as
    W&B's client does; its agents look for the Dockerfile in `overrides` first.

    Raises:
        InvalidInputError: names the path of the spec that is wrong.
    """
    spec: Json = dict(options.base or {})
    if job is not None:
        spec["job"] = job
    if options.docker_image is not None:
        spec["source"] = {"type": "image", "image": options.docker_image}
        spec["docker"] = {**(spec.get("docker") or {}), "docker_image": options.docker_image}
    spec |= _given(
        name=options.name,
        entity=options.entity,
        project=options.run_project(),
        resource=options.resource,
        timeout=options.timeout,
        retries=options.retries,
        on_lost=options.on_lost,
        resource_args=dict(options.resource_args) if options.resource_args else None,
    )
    for key, fields in _nested(options).items():
        if fields:
            spec[key] = {**(spec.get(key) or {}), **fields}
    _check(spec)
    return spec


def _nested(options: SubmitOptions) -> dict[str, Json]:
    makes_job = options.uri is not None
    build = {} if makes_job else _given(
        build_context=options.build_context,
        dockerfile=options.dockerfile,
        base_image=options.base_image,
    )  # fmt: skip
    return {
        "build": build,
        "resources": _given(cpus=options.cpus, memory=options.memory, gpus=options.gpus),
        "overrides": _given(
            entry_point=_words(options.entry_point),
            args=list(options.args) or None,
            dockerfile=(options.dockerfile or None) if makes_job else None,
        ),
    }


def _given(**values: Any) -> Json:
    return {key: value for key, value in values.items() if value is not None}


def _words(command: str | None) -> list[str] | None:
    if command is None:
        return None
    try:
        return shlex.split(command)
    except ValueError as error:
        reason = str(error).rstrip(".")
        message = f"--entry-point: '{command}' cannot be split into words: {reason}."
        raise InvalidInputError(message, hint="Check its quotes.") from None


def _check(spec: Json) -> None:
    base_image = (spec.get("build") or {}).get("base_image")
    if isinstance(base_image, str) and base_image:
        parse_image(base_image)
    source = parse_spec(spec).effective_source()
    if source is not None and source.type == "image":
        parse_image(source.image)


async def template_values(api: "UserOperations", queue: str, options: SubmitOptions) -> Json | None:
    """Values of the queue's template variables, in the types that its template declares.

    A queue is also looked up where a job will be made for it, before that happens.

    Raises:
        NotFoundError: no such queue or variable; similar names are offered.
        InvalidInputError: a value that is not of its type.
    """
    if not options.variables:
        if options.uri is not None and queue != DEFAULT_QUEUE:
            await api.queue(queue)
        return None
    known = {each["name"]: each for each in (await api.queue(queue))["templateVariables"]}
    typed: Json = {}
    for name, text in options.variables.items():
        if name not in known:
            message = f"The queue `{queue}` has no template variable `{name}`."
            hint = did_you_mean(name, known, "variable")
            run_config = json.dumps({"overrides": {"run_config": {name: text}}})
            hint += f" A parameter of the job is given by --config '{run_config}'."
            raise NotFoundError(message, hint=hint)
        typed[name] = _typed(name, text, _type_of(known[name]))
    return typed


def _type_of(variable: Mapping[str, Any]) -> str:
    """The type in a variable's JSON schema, which is JSON text in answers of the server."""
    schema = variable["schema"]
    parsed: Json = json.loads(schema) if isinstance(schema, str) else dict(schema)
    return str(parsed.get("type", "string"))


def _typed(name: str, text: str, kind: str) -> object:
    try:
        match kind:
            case "integer":
                return int(text)
            case "number":
                return _finite(float(text))
            case "boolean":
                return {"true": True, "false": False}[text.lower()]
            case _:
                return text
    except (ValueError, KeyError):
        article = "an" if kind == "integer" else "a"
        message = f"--set-var {name}: '{text}' is not {article} {kind}."
        raise InvalidInputError(message) from None


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError(number)
    return number
