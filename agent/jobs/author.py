"""From what a submitter says to a launch spec."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from agent.model.errors import InvalidInputError
from agent.model.job.image_reference import parse_image
from agent.model.job.names import stored_remote
from agent.model.job.reference import project_in
from agent.model.spec import parse_spec

Json = dict[str, Any]

#: `user@host:path`, git's short form of SSH addresses.
_SCP_LIKE: Final = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^/].*|[A-Za-z0-9._-]+@[^:/]+:/.*")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: Seen by its form, for a URL that is broken elsewhere holds it as well.
_PASSWORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*:[^/?#]*@")
_GIT_SCHEMES: Final = frozenset({"https", "http", "ssh", "file"})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was said about one job; `None` and empty were not said."""

    uri: str | None = None
    #: Reference to a job: `entity/project/name:alias`.
    job: str | None = None
    docker_image: str | None = None
    entry_point: str | None = None
    git_version: str | None = None
    submodules: bool | None = None
    lfs: bool | None = None
    build_context: str | None = None
    dockerfile: str | None = None
    base_image: str | None = None
    name: str | None = None
    entity: str | None = None
    project: str | None = None
    resource: str | None = None
    timeout: str | None = None
    retries: int | None = None
    on_lost: Literal["fail", "retry"] | None = None
    cpus: float | None = None
    memory: str | None = None
    gpus: int | None = None
    args: tuple[str, ...] = ()
    #: A launch spec to start from.
    base: Mapping[str, Any] | None = None
    #: `{"<resource>": {...}}`.
    resource_args: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Authored:
    """A launch spec, and the folder that must be packed into it, if any."""

    spec: Json
    folder: Path | None = None


def author(wishes: Wishes) -> Authored:
    """Write the launch spec that the wishes describe.

    Raises:
        InvalidInputError: wishes contradict each other, are incomplete, or name something
            that is not there.
    """
    check_combination(wishes)
    spec: Json = dict(wishes.base or {})
    folder: Path | None = None
    if wishes.uri is not None:
        folder = _add_uri(spec, wishes, wishes.uri)
    if wishes.job is not None:
        spec["job"] = wishes.job
    if wishes.docker_image is not None:
        spec["source"] = {"type": "image", "image": wishes.docker_image}
        spec["docker"] = {**(spec.get("docker") or {}), "docker_image": wishes.docker_image}
    _add_plain(spec, wishes)
    _add_nested(spec, wishes)
    base_image = (spec.get("build") or {}).get("base_image")
    if isinstance(base_image, str) and base_image:
        parse_image(base_image)
    if folder is None:
        _check_source(spec)
    source = parse_spec(spec).effective_source()
    if source is not None and source.type == "git":
        _check_password(source.url, "`source.url`")
    if source is not None and source.type == "image":
        parse_image(source.image)
    return Authored(spec, folder)


def check_combination(wishes: Wishes) -> None:
    """Refuse wishes that exclude or need each other; nothing is asked of anybody.

    Raises:
        InvalidInputError: names them.
    """
    given = wishes.base or {}
    image = wishes.docker_image or (given.get("docker") or {}).get("docker_image")
    job = wishes.job or given.get("job")
    if image is not None and job is not None:
        message = f"The job `{job}` and the image `{image}` exclude each other."
        raise InvalidInputError(message, hint="A run has one source: give --job or -d.")
    if wishes.base_image is not None and wishes.job is not None:
        message = "--base-image belongs to --uri: a job that exists has its own."
        raise InvalidInputError(message, hint="Create the job again with --base-image.")
    if wishes.uri is not None and wishes.docker_image is not None:
        message = "--uri and --docker-image exclude each other: a job has one source."
        raise InvalidInputError(message, hint="To run code in a given image, use --base-image.")
    if wishes.base_image is not None and wishes.docker_image is not None:
        message = "--base-image and --docker-image exclude each other."
        raise InvalidInputError(message, hint="A ready image is run as it is.")
    check_entry_point(wishes)
    if wishes.uri is None:
        _refuse_extras(wishes)
        _check_source({**given, **({"job": job} if job else {}), "docker": {"docker_image": image}})
    if wishes.git_version is not None and wishes.uri is None and not wishes.base:
        message = "--git-version belongs to a git repository, and there is no --uri."
        raise InvalidInputError(message)


def check_entry_point(wishes: Wishes) -> None:
    """Refuse a source of which nothing says what to run; a file is run itself.

    Raises:
        InvalidInputError
    """
    if wishes.uri is None or wishes.entry_point or wishes.dockerfile:
        return
    overrides = (wishes.base or {}).get("overrides") or {}
    if overrides.get("entry_point") or overrides.get("dockerfile"):
        return
    if is_git(wishes.uri) or not Path(wishes.uri).expanduser().is_file():
        message = "--uri needs --entry-point, which says what to run."
        hint = 'For example --entry-point "python main.py"; or give a --dockerfile.'
        raise InvalidInputError(message, hint=hint)


def _add_uri(spec: Json, wishes: Wishes, uri: str) -> Path | None:
    if is_git(uri):
        spec["source"] = git_source(uri, wishes.git_version) | _extras(wishes)
        return None
    if wishes.git_version is not None:
        message = f"--git-version belongs to a git repository, and '{uri}' is a directory."
        raise InvalidInputError(message, hint="Leave it out, or give the repository's URL.")
    return _directory(uri)


def _extras(wishes: Wishes) -> Json:
    said = {"submodules": wishes.submodules, "lfs": wishes.lfs}
    return {key: value for key, value in said.items() if value is not None}


def _refuse_extras(wishes: Wishes) -> None:
    for name in _extras(wishes):
        message = f"--{name} belongs to --uri, which names a repository."
        raise InvalidInputError(message, hint="A job that exists says this itself.")


def job_project(wishes: Wishes) -> str | None:
    """The project that a submission speaks of without naming one: its job's."""
    job = str(wishes.job or (wishes.base or {}).get("job") or "")
    return project_in(job) or None


def is_git(uri: str) -> bool:
    """Whether a URI names a git repository rather than a directory here."""
    return bool(_URL.match(uri) or (_SCP_LIKE.fullmatch(uri) and not Path(uri).exists()))


def check_git_url(url: str, ref: str | None = None) -> None:
    """Refuse what cannot be a repository's URL; a password in it is another matter.

    Raises:
        InvalidInputError: no URL, or a scheme that git sources do not have.
    """
    if not is_git(url):
        message = f"'{url}' is not the URL of a git repository."
        hint = "Use https://, ssh:// or user@host:path; a directory becomes a code job."
        raise InvalidInputError(message, hint=hint)
    git_source(stored_remote(url), ref)


def git_source(url: str, ref: str | None) -> Json:
    """A git source.

    Raises:
        InvalidInputError: a scheme that git sources do not have, or a password in the URL.
    """
    for text in (url, ref or ""):
        if text.startswith("-"):
            message = f"'{text}' looks like an option of git, and is not taken."
            raise InvalidInputError(message)
    if _URL.match(url):
        # First, so that no message shows it.
        _check_password(url, "--uri")
        scheme = url.partition("://")[0]
        if scheme.lower() not in _GIT_SCHEMES:
            message = f"'{url}': `{scheme}` is not a protocol of git sources."
            raise InvalidInputError(message, hint="Use https://, ssh:// or user@host:path.")
    return {"type": "git", "url": url, **({"ref": ref} if ref else {})}


def _check_password(url: str, where: str) -> None:
    if _PASSWORD.match(url):
        message = f"{where}: the URL holds a password, which would be stored."
        hint = "Leave it out: the agent's credential helper or configuration has it."
        raise InvalidInputError(message, hint=hint)


def check_directory(uri: str) -> None:
    """Refuse what is neither a directory nor a file here.

    Raises:
        InvalidInputError: names it.
    """
    if not uri.strip():
        message = "--uri is empty, which would mean the current directory."
        raise InvalidInputError(message, hint="Write `.` if that is meant.")
    if not Path(uri).expanduser().exists():
        _directory(uri)


def _directory(uri: str) -> Path:
    path = Path(uri).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        message = f"--uri: {uri} is a file, not a directory."
        hint = f'Give its directory, and --entry-point "python {path.name}".'
        raise InvalidInputError(message, hint=hint)
    message = f"--uri: {uri} is neither a directory here nor the URL of a git repository."
    raise InvalidInputError(message, hint="Check the path; git URLs start with https:// or ssh://.")


def _add_plain(spec: Json, wishes: Wishes) -> None:
    given = {
        "name": wishes.name,
        "entity": wishes.entity,
        "project": wishes.project,
        "resource": wishes.resource,
        "timeout": wishes.timeout,
        "retries": wishes.retries,
        "on_lost": wishes.on_lost,
    }
    spec.update({key: value for key, value in given.items() if value is not None})


def _add_nested(spec: Json, wishes: Wishes) -> None:
    groups: dict[str, Json] = {
        "build": {
            "build_context": wishes.build_context,
            "dockerfile": wishes.dockerfile,
            "base_image": wishes.base_image,
        },
        "resources": {"cpus": wishes.cpus, "memory": wishes.memory, "gpus": wishes.gpus},
        "overrides": {
            "entry_point": _words(wishes.entry_point),
            "args": list(wishes.args) or None,
        },
    }
    for key, values in groups.items():
        given = {name: value for name, value in values.items() if value is not None}
        if given:
            spec[key] = {**(spec.get(key) or {}), **given}
    if wishes.resource_args:
        spec["resource_args"] = dict(wishes.resource_args)


def _words(command: str | None) -> list[str] | None:
    if command is None:
        return None
    try:
        return shlex.split(command)
    except ValueError as error:
        message = f"--entry-point: '{command}' cannot be split into words: {error}."
        raise InvalidInputError(message.replace("..", "."), hint="Check its quotes.") from None


def _check_source(spec: Json) -> None:
    docker = spec.get("docker") or {}
    if not (spec.get("source") or docker.get("docker_image") or spec.get("job")):
        message = "The job has no source."
        raise InvalidInputError(
            message, hint="Give --job, --uri (a directory or git URL) or --docker-image."
        )
