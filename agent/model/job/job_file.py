"""`wandb-job.json`: the description of a job in its artifact.

Written byte by byte as W&B's command line writes it, so that equal jobs have equal digests.
Read from any client; known faults are repaired.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.model.errors import InvalidInputError
from agent.model.job.entry_point import script_of, split
from agent.model.job.names import parse_code_reference, stored_remote
from agent.model.job.paths import inside
from agent.model.job.requirements import FROZEN_NAME
from agent.model.job.runtime import repaired_runtime, repaired_word
from agent.model.names import did_you_mean

FILE_NAME: Final = "wandb-job.json"
#: Uncommitted changes of the author, which lie beside it.
PATCH_NAME: Final = "diff.patch"
#: The form of jobs without a build context or Dockerfile, and of those with one.
PLAIN_VERSION: Final = "v0"
BUILD_VERSION: Final = "0.17.0"

_SOURCE_TYPES: Final = ("repo", "artifact", "image")
_MAX_SHOWN: Final = 80

Json = dict[str, Any]
Tree = Json

#: W&B's client keeps its own metadata under this key of a configuration.
_NOTES: Final = "_wandb"
#: Deeper values are `unknown`, so that the recursion is bounded.
_DEEPEST: Final = 100


class _Stored(BaseModel):
    """Keys that we do not know are kept: newer clients write more."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class Git(_Stored):
    """A repository at one commit; the remote has no password.

    What follows the commit is ours and is written only where it was asked for: W&B's clients
    pass over it, and a job without it is theirs byte by byte.
    """

    remote: Annotated[str, Field(min_length=1)]
    commit: Annotated[str, Field(min_length=1)]
    #: `None` means yes, as W&B's agent does it.
    submodules: bool | None = None
    #: Contents of files in Git LFS; `None` means no.
    lfs: bool | None = None


class _Built(_Stored):
    """What both kinds of source code share; paths are relative, the Dockerfile's to the context."""

    entrypoint: list[str] = []
    notebook: bool = False
    build_context: str | None = None
    dockerfile: str | None = None
    base_image: str | None = None


class JobRepoSource(_Built):
    """Code of a Git repository."""

    git: Git


class JobArtifactSource(_Built):
    """Code of a directory, in an artifact of type `code`."""

    #: `wandb-artifact://_id/<id>`.
    artifact: str


class JobImageSource(_Stored):
    """A ready image; without `entrypoint` its own is used."""

    image: Annotated[str, Field(min_length=1)]
    args: list[str] | None = None
    entrypoint: list[str] | None = None


JobSource = JobRepoSource | JobArtifactSource | JobImageSource


class JobFile(_Stored):
    """One version of a job."""

    version: str = Field(PLAIN_VERSION, alias="_version")
    source_type: Literal["repo", "artifact", "image"]
    source: JobSource
    input_types: Tree = Field(default_factory=lambda: type_tree({}))
    output_types: Tree = Field(default_factory=lambda: type_tree({}))
    #: `3.11`; `None` for a job whose image brings its own.
    runtime: str | None = None
    services: dict[str, Literal["always", "never"]] | None = None
    #: A mark of older clients: types are not known yet.
    partial: Any = Field(None, alias="_partial")


@dataclass(frozen=True, slots=True)
class ParsedJobFile:
    """A stored job, and one sentence for each repair that was needed."""

    job: JobFile
    repairs: tuple[str, ...]


def job_file(
    source: JobSource, *, runtime: str | None, services: Mapping[str, str] | None = None
) -> JobFile:
    """The file of a new job that never ran.

    Raises:
        InvalidInputError: a path of the source leads outside, or a service's policy is unknown.
    """
    kind = {JobRepoSource: "repo", JobArtifactSource: "artifact", JobImageSource: "image"}[
        type(source)
    ]
    raw = {"source_type": kind, "runtime": runtime, "services": dict(services or {}) or None}
    return _validated({**raw, "source": source.model_dump(exclude_none=True)})


def write_job_file(job: JobFile) -> str:
    """The text to store.

    The keys stand in the order of W&B's client, those without a value are left out.
    """
    source = job.source.model_dump(exclude_none=True)
    ordered = {key: source[key] for key in _leading_keys(job.source)} | source
    build_keys = {"build_context", "dockerfile"} & ordered.keys()
    content: dict[str, Any] = {
        "_version": BUILD_VERSION if build_keys and job.version == PLAIN_VERSION else job.version,
        "source_type": job.source_type,
        "source": ordered,
        "input_types": job.input_types,
        "output_types": job.output_types,
        "runtime": job.runtime or "",
    }
    if job.services:
        content["services"] = job.services
    if job.partial is not None:
        content["_partial"] = job.partial
    return json.dumps(content | (job.model_extra or {}), indent=4)


def job_contents(job: JobFile, frozen: str, diff: bytes | None) -> dict[str, bytes]:
    """The files of a job's artifact; `frozen` is the text of its frozen requirements."""
    files = {FILE_NAME: write_job_file(job).encode(), FROZEN_NAME: frozen.encode()}
    return files if diff is None else {**files, PATCH_NAME: diff}


def _leading_keys(source: JobSource) -> tuple[str, ...]:
    match source:
        case JobRepoSource():
            return ("git",)
        case JobArtifactSource():
            return ("entrypoint", "notebook", "artifact")
        case JobImageSource():
            return ("image",)


def read_job_file(text: str) -> ParsedJobFile:
    """Read a stored job of any client.

    Raises:
        InvalidInputError: no JSON, a key missing or wrong (named by its path), or a path that
            leads out of the source.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{FILE_NAME} is not JSON: {error}."
        raise InvalidInputError(message, hint="Create the job again.") from None
    if not isinstance(raw, dict):
        raise InvalidInputError(f"{FILE_NAME} holds {_shown(raw)}, not an object.")
    repairs: list[str] = []
    return ParsedJobFile(_validated(_repaired(raw, repairs)), tuple(repairs))


def _repaired(raw: dict[str, Any], repairs: list[str]) -> dict[str, Any]:
    """Without nulls, which mean the same as a missing key, and without known faults."""
    job = {key: value for key, value in raw.items() if value is not None}
    runtime = job.pop("runtime", None)
    if isinstance(runtime, str):
        job["runtime"] = repaired_runtime(runtime)
        if runtime.strip() and job["runtime"] != runtime:
            repairs.append(f"runtime '{runtime}' is read as {job['runtime']}")
    elif runtime is not None:
        raise InvalidInputError(f"{FILE_NAME}: `runtime` is {_shown(runtime)}, not a string.")
    if isinstance(job.get("source"), dict):
        source = {key: value for key, value in job["source"].items() if value is not None}
        job["source"] = source | _repaired_words(source.get("entrypoint"), repairs)
    return job


def _repaired_words(words: object, repairs: list[str]) -> dict[str, Any]:
    if isinstance(words, str) and words:
        repairs.append(f"entry point '{words}' is split into words")
        words = list(split(words))
    if not isinstance(words, list) or not words or not isinstance(words[0], str):
        return {}
    first = repaired_word(words[0])
    if first != words[0]:
        repairs.append(f"entry point's word '{words[0]}' is read as {first}")
    return {"entrypoint": [first, *words[1:]]}


def _validated(raw: dict[str, Any]) -> JobFile:
    kind = raw.get("source_type")
    models: dict[str, type[JobSource]] = {
        "repo": JobRepoSource,
        "artifact": JobArtifactSource,
        "image": JobImageSource,
    }
    if not isinstance(kind, str) or kind not in models:
        message = f"{FILE_NAME}: `source_type` is {_shown(kind)}."
        raise InvalidInputError(message, hint=did_you_mean(str(kind), _SOURCE_TYPES, "type"))
    try:
        source = models[kind].model_validate(raw.get("source", {}))
        job = JobFile.model_validate({**raw, "source": source})
    except ValidationError as error:
        first = error.errors()[0]
        inner = error.title == models[kind].__name__
        path = ".".join(str(part) for part in (*(["source"] if inner else []), *first["loc"]))
        message = f"{FILE_NAME}: `{path}`: {first['msg']} (seen: {_shown(first.get('input'))})."
        raise InvalidInputError(message, hint="Create the job again.") from None
    return job.model_copy(update={"source": _checked(source)})


def _checked(source: JobSource) -> JobSource:
    """With paths inside the source, a valid code reference, and no password."""
    match source:
        case JobImageSource():
            return source
        case JobRepoSource(git=git):
            bare = git.model_copy(update={"remote": stored_remote(git.remote)})
            _check_paths(source)
            return source.model_copy(update={"git": bare})
        case JobArtifactSource(artifact=artifact):
            parse_code_reference(artifact)
            _check_paths(source)
            return source


def _check_paths(source: _Built) -> None:
    for path, what in (
        (source.build_context, "build context"),
        (source.dockerfile, "Dockerfile"),
    ):
        if path:
            inside(path, what)
    own_image = bool(source.dockerfile or source.base_image)
    script = script_of(source.entrypoint)
    if script and not (own_image and script.startswith("/")):
        inside(script, "entry point's file")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def type_tree(value: object) -> Tree:
    """What kind of value stands where in a run's configuration or summary.

        {"wb_type": "typedDict", "params": {"type_map": {"lr": {"wb_type": "number"}}}}

    Built as W&B's client builds them at a run's end. A list of several kinds becomes a union;
    the client writes its members in no order, here they are sorted by kind. What is not JSON
    or lies too deep is `unknown`.
    """
    return _tree(value, 0)


def _tree(value: object, depth: int) -> Tree:
    match value:
        case dict() | list() | tuple() if depth >= _DEEPEST:
            return {"wb_type": "unknown"}
        case dict():
            named = ((str(key), each) for key, each in value.items() if key != _NOTES)
            types = {key: _tree(each, depth + 1) for key, each in named}
            return {"wb_type": "typedDict", "params": {"type_map": types}}
        case list() | tuple():
            element = _element([_tree(each, depth + 1) for each in value])
            return {"wb_type": "list", "params": {"element_type": element, "length": len(value)}}
        case _:
            return {"wb_type": _kind(value)}


def _kind(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case _:
            return "unknown"


def _element(trees: list[Tree]) -> Tree:
    """Of one kind: the last value's tree; of several: a union with one tree for each."""
    kinds = {tree["wb_type"]: tree for tree in trees}
    match [kinds[kind] for kind in sorted(kinds)]:
        case []:
            return {"wb_type": "unknown"}
        case [only]:
            return only
        case allowed:
            return {"wb_type": "union", "params": {"allowed_types": allowed}}


# ------------------------------------------------------------------ layer of a launch spec


def launch_layer(job: JobFile, reference: str) -> Json:
    """The job's fields under the launch spec's own paths; `reference` names its version.

    The entry point of a notebook is left out: the agent converts the notebook and takes the
    command from the job file, while W&B's agents would run these words as they are.
    """
    layer: Json = {"job": reference, "source": _source(job.source)}
    build = _build(job)
    if build:
        layer["build"] = build
    overrides = _overrides(job.source)
    if overrides:
        layer["overrides"] = overrides
    return layer


def _source(source: JobSource) -> Json:
    match source:
        case JobRepoSource(git=git):
            # W&B's agent always fetches submodules; a job may say that it needs none.
            wanted = git.submodules is not False
            lfs = {"lfs": True} if git.lfs else {}
            return {
                "type": "git", "url": git.remote, "ref": git.commit, "submodules": wanted, **lfs,
            }  # fmt: skip
        case JobArtifactSource(artifact=artifact):
            return {"type": "artifact", "artifact": artifact}
        case JobImageSource(image=image):
            return {"type": "image", "image": image}


def _build(job: JobFile) -> Json:
    source = job.source
    if isinstance(source, JobImageSource):
        return {}
    found = {
        "build_context": source.build_context,
        "dockerfile": source.dockerfile,
        "base_image": source.base_image,
        "python": job.runtime,
    }
    return {key: value for key, value in found.items() if value}


def _overrides(source: JobSource) -> Json:
    if isinstance(source, JobImageSource):
        found = {"entry_point": source.entrypoint, "args": source.args}
    elif source.notebook or (script_of(source.entrypoint) or "").endswith(".ipynb"):
        return {}
    else:
        found = {"entry_point": source.entrypoint}
    return {key: list(words) for key, words in found.items() if words}
