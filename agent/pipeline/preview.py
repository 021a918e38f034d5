"""What a job would become, without starting anything: the same steps as a real run.

Source, Dockerfile, workload and environment come from the code that the run itself uses; only
what needs the engine (digests) or the control plane (ids, tokens) is left open. Also: which
layer set each field of a launch spec, and masking of secrets in what is shown.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.model.errors import InvalidInputError
from agent.model.redact import MASK, Redactor, is_telling_name
from agent.model.spec import Json
from agent.model.work import Claim, Image, Resolved
from agent.pipeline.build import build_request
from agent.pipeline.dependencies import Backend, ResolveDependencies
from agent.pipeline.job_variables import MOUNTS, SECRETS, Injected, named_by_queue, parameter_file
from agent.pipeline.resolve import base_image_of, resolve
from agent.pipeline.start import run_request
from agent.ports.builder import BuildPreview
from agent.ports.log import LogSink
from agent.ports.runner import RunRequest

#: Stands for what only a real run knows.
KNOWN_AT_LAUNCH: Final = "(known at launch)"

#: First match counts: a submitter's value wins where the layers above allow it.
_LAYERS: Final = ("submitter", "job", "queue")
#: Keys of a spec that describe the item, not the run.
_LEFT_OUT: Final = frozenset({"template_variables"})
_Path = tuple[str, ...]
_SECRET: Final = re.compile(r"(?i)(key|token|secret|passw|credential)")
_PAIR: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field, its value, and which layer set it."""

    path: str
    value: Any
    #: `submitter`, `queue`, `job`, `control plane`, `agent`, `source` (a file of it), `runtime`
    #: or `cluster` (its API server).
    layer: str


@dataclass(frozen=True, slots=True)
class Preview:
    """Everything to be shown; secrets are masked."""

    resource: str
    #: Of the fetched source: commit, digest, job.
    facts: dict[str, str]
    #: `None` where nothing is built.
    build: BuildPreview | None
    #: What the runner would send: a container's body, or argv and folder of a process.
    workload: Json
    #: Manifests of what runs beside it.
    side_services: tuple[Json, ...]
    environment: dict[str, str]
    settings: tuple[Setting, ...]


async def preview(
    claim: Claim,
    backend: Backend,
    dependencies: ResolveDependencies,
    folder: Path,
    log: LogSink,
    *,
    server_side: bool = False,
) -> Preview:
    """Look everything up below `folder`, which the caller removes.

    `server_side`: the workload as the backend's server would make it.

    Raises:
        LaunchError: what would refuse the run, with the same message.
        InvalidInputError: `server_side`, and the backend has no dry run.
    """
    if server_side and backend.dry_run is None:
        message = f"{claim.resource} has no server that could make a dry run."
        raise InvalidInputError(message, hint="Leave `--server-side` out.")
    resolved = await resolve(claim, backend, dependencies, folder, log)
    build: BuildPreview | None = None
    if resolved.tree is not None and resolved.image is None and backend.builder is not None:
        build = await backend.builder.preview(build_request(resolved))
    # The administrator's secrets and mounts are not read here; `settings` names them.
    injected = Injected()
    parameter_file(resolved.claim, injected)
    request = run_request(
        resolved, Image(resolved.image or KNOWN_AT_LAUNCH, "", reused=False), injected,
        name=KNOWN_AT_LAUNCH, control_plane_id=KNOWN_AT_LAUNCH, folder=Path(KNOWN_AT_LAUNCH),
        workdir=Path(resolved.build_context),
    )  # fmt: skip
    sent = workload = backend.runner.preview(request)
    services: Sequence[Json] = backend.side_services(request) if backend.side_services else ()
    if server_side and backend.dry_run is not None:
        workload, *services = await backend.dry_run(request)
    settings = settings_of(resolved.claim)
    if backend.takes_manifest:
        settings = _manifest_settings(request, resolved.claim, settings, sent, workload)
    return Preview(
        resource=resolved.claim.resource,
        facts=resolved.facts,
        build=build,
        workload=masked_value(workload),
        side_services=tuple(masked_value(each) for each in services),
        environment=masked_value({**request.environment, **request.file_variables}),
        settings=settings + _decided(resolved, build),
    )


def _manifest_settings(
    request: RunRequest, claim: Claim, settings: tuple[Setting, ...], sent: Json, shown: Json
) -> tuple[Setting, ...]:
    """Every field of a manifest in place of the arguments that it was made from.

    `sent` is what the agent would send, `shown` what comes of it. Lists are merged as a whole, so
    that all in a list was set by the list's layer, or by the agent.
    """
    prefix = ("resource_args", claim.resource)
    others = tuple(each for each in settings if not each.path.startswith(".".join(prefix) + "."))
    layers = {each.path: each.layer for each in settings}
    given = dict(_leaves(request.arguments, lists=True))
    agents = dict(_leaves(sent, lists=True))
    words = {"command": list(request.command), "args": list(request.args)}
    asked = {"command": "overrides.entry_point", "args": "overrides.args"}

    def layer(path: _Path, value: Any) -> str:
        if path in given and given[path] == value:
            above = (path[:length] for length in range(len(path), 0, -1))
            names = (".".join((*prefix, *parts)) for parts in above)
            return next((layers[name] for name in names if name in layers), "agent")
        key = path[-2] if path[-1].isdecimal() and len(path) > 1 else path[-1]
        if words.get(key) and value in words[key]:
            return layers.get(asked[key], "agent")
        return "agent" if path in agents else "cluster"

    fields = _leaves(shown, lists=True)
    masked = _leaves(masked_value(shown), lists=True)
    made = (
        Setting(".".join(("manifest", *path)), hidden, layer(path, value))
        for (path, value), (_, hidden) in zip(fields, masked, strict=True)
    )
    return (*others, *made)


def _decided(resolved: Resolved, build: BuildPreview | None) -> tuple[Setting, ...]:
    """What no layer sets and the agent decides."""
    decided = [
        Setting(f"{kind}.{name}", "(from the agent's configuration)", "queue")
        for kind in (SECRETS, MOUNTS)
        for name in named_by_queue(resolved.claim, kind)
    ]
    if build is None or build.dockerfile is None:
        return tuple(decided)
    generated = build.own_dockerfile is None
    if generated:
        layer = _base_image_layer(resolved, build)
        decided.append(Setting("base image", build.base_image, layer))
    if resolved.python and not resolved.claim.spec.build.python:
        decided.append(Setting("python", resolved.python, "source"))
    if resolved.claim.spec.docker.user_id is None and generated:
        decided.append(Setting("user id", build_request(resolved).user_id, "agent"))
    shown = build.own_dockerfile
    decided.append(Setting("Dockerfile", shown or "generated", "source" if shown else "agent"))
    decided.append(Setting("build context", resolved.build_context, "source"))
    return tuple(decided)


def _base_image_layer(resolved: Resolved, build: BuildPreview) -> str:
    origin = base_image_of(resolved.claim).origin
    if origin:
        return next((s.layer for s in settings_of(resolved.claim) if s.path == origin), "agent")
    return "agent" if build.base_image_configured else "runtime"


def settings_of(claim: Claim) -> tuple[Setting, ...]:
    """Every field that some layer set, sorted by path; secrets are masked."""
    spec = claim.spec.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    spec["resource"] = claim.resource
    leaves = {path: value for path, value in _leaves(spec) if path[0] not in _LEFT_OUT}
    return tuple(
        Setting(".".join(path), masked_value(leaves[path], path[-1]), layer)
        for path in sorted(leaves)
        for layer in [_layer(claim.layers, path, leaves[path])]
    )


def _layer(layers: Mapping[str, Json], path: _Path, value: object) -> str:
    """The strongest layer with exactly this value, else the strongest with any."""
    values = {name: _at(layers.get(name) or {}, path) for name in _LAYERS}
    for name in _LAYERS:
        if values[name] is not None and values[name] == value:
            return name
    return next((name for name in _LAYERS if values[name] is not None), "control plane")


def _at(layer: Json, path: _Path) -> Any:
    found: Any = layer
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _leaves(value: Json, above: _Path = (), *, lists: bool = False) -> Iterator[tuple[_Path, Any]]:
    """Fields that have no fields; `lists`: those in lists, too."""
    for key, given in value.items():
        path, inner = (*above, str(key)), given
        if lists and isinstance(given, list):
            inner = {str(index): each for index, each in enumerate(given)}
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, path, lists=lists)
        elif inner is not None and inner != {}:
            yield path, inner


def masked_value(value: Any, name: str = "") -> Any:
    """A value without secrets; `name` is the last part of its path."""
    if isinstance(value, dict):
        return _masked_fields(value)
    if isinstance(value, list):
        return [masked_value(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    pair = _PAIR.fullmatch(value)
    if pair is not None and _SECRET.search(pair["name"]):
        return f"{pair['name']}={MASK}"
    return MASK if _SECRET.search(name) else Redactor().text(value)


def _masked_fields(value: Json) -> Json:
    match value:
        case {"name": str(variable), "value": str()} if is_telling_name(variable):
            return {**value, "value": MASK}
        case {"secretKeyRef": dict()}:  # says where a value is
            return value
        case _:
            return {key: masked_value(inner, key) for key, inner in value.items()}
