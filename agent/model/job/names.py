"""Names, aliases and references of jobs, as W&B's clients make them, and the Git remotes in them.

A reference is `entity/project/name:alias`; code is referred to by `wandb-artifact://…`.
Facts from W&B's client 0.31.0: `make_artifact_name_safe`, `JobBuilder`, `create_job`.
"""

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import SplitResult, urlsplit

from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.names import did_you_mean

MAX_LENGTH: Final = 128
LATEST: Final = "latest"
#: The type of the artifacts that are jobs.
JOB_TYPE: Final = "job"
#: What the environment calls a job's own name.
NAME_VARIABLE: Final = "WANDB_JOB_NAME"

#: `user@host:path`, git's short form of SSH addresses.
SCP_LIKE: Final = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^/].*|[A-Za-z0-9._-]+@[^:/]+:/.*")
_REMOTE: Final = re.compile(r"(?:https?|ssh)://[^/?#\s-][^\s]*", re.IGNORECASE)

_UNSAFE: Final = re.compile(r"[^a-zA-Z0-9_.-]")
#: Kept at either end of a name that is too long; two dots stand between.
_KEPT: Final = 63
_TAG: Final = re.compile(r"[a-zA-Z0-9_.-]+")
_VERSION: Final = re.compile(r"v(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class ImageName:
    """What an image gives to its job: the default name, and its tag as alias."""

    job: str
    #: The tag, or the digest's hexadecimal part; `None` when the image names neither.
    alias: str | None


def safe_name(text: str) -> str:
    """Any text as a name: `[A-Za-z0-9_.-]`, at most 128 characters, the middle cut out."""
    cleaned = _UNSAFE.sub("_", text)
    if len(cleaned) <= MAX_LENGTH:
        return cleaned
    return f"{cleaned[:_KEPT]}..{cleaned[-_KEPT:]}"


def git_job_name(remote: str, program: str) -> str:
    """`job-<remote>_<program>`, made safe; `program` is relative to the repository's root.

    A password in the remote never becomes part of the name. Where no file is known, the name
    is what W&B's command line gives to every Git job.
    """
    path = posixpath.normpath(program) if program else ""
    return safe_name(f"job-{named_remote(remote)}_{path}")


def code_artifact_name(directory: str, entry_point: str, job_name: str | None = None) -> str:
    """The name of a directory's `code` artifact.

    W&B's rule: `code-` and the job's own name, else the directory as it was written, joined
    with the entry point's last word, every `./` and one outer slash at either end removed.
    """
    if job_name:
        return safe_name(f"code-{job_name}")
    path = posixpath.join(directory, entry_point.rsplit(" ", maxsplit=1)[-1]).replace("./", "")
    return safe_name(f"code-{path.removeprefix('/').removesuffix('/')}")


def code_job_name(directory: str, entry_point: str) -> str:
    """The default name of a job made from a directory: `job-` and its `code` artifact's.

    W&B's client 0.31.0 gives this name to the version that it uploads, prints and launches; the
    one of its first request, with `job` for every `code`, keeps no version.
    """
    return safe_name(f"job-{code_artifact_name(directory, entry_point)}")


def image_job_name(image: str) -> ImageName:
    """`job-<image>` without its tag, made safe, and the tag.

    W&B's rule takes what follows the last colon for a tag when it looks like one. So a digest
    becomes an alias by its hexadecimal part, and a port before a path does not.
    """
    tag = image.rpartition(":")[2] if ":" in image else ""
    if not _TAG.fullmatch(tag):
        return ImageName(safe_name(f"job-{image}"), None)
    return ImageName(safe_name("job-" + image.replace(f":{tag}", "")), tag)


def own_name(flag: str | None, environment: Mapping[str, str]) -> str | None:
    """The name that the user chose: by flag, else by `WANDB_JOB_NAME`; checked.

    Raises:
        InvalidInputError: it cannot be a name; a valid one is suggested.
    """
    if flag:
        return checked_name(flag)
    chosen = environment.get(NAME_VARIABLE)
    return checked_name(chosen, source=NAME_VARIABLE) if chosen else None


def checked_name(name: str, *, source: str | None = None) -> str:
    """`name`, if it can be a job's name; `source` tells in the message where it was found.

    Raises:
        InvalidInputError: it cannot be one; a valid one is suggested.
    """
    safe = safe_name(name)
    nameless = not name.strip("._-")
    if name == safe and not nameless:
        return name
    found = f" (from {source})" if source else ""
    shown = name if len(name) <= MAX_LENGTH else f"{name[:_KEPT]}…"
    message = (
        f"'{shown}'{found} cannot be a job's name: only letters, digits, `-`, `_` and `.` may "
        f"stand in it, at least one letter or digit, at most {MAX_LENGTH} characters."
    )
    hint = f"Did you mean `{safe}`?" if safe.strip("._-") else "For example: `train-resnet`."
    raise InvalidInputError(message, hint=hint)


def version_of(alias: str) -> int | None:
    """The version that an alias names by its own name (`v3` → 3); `None` for a free alias."""
    return int(alias[1:]) if _VERSION.fullmatch(alias) else None


def free_aliases(aliases: Iterable[str]) -> tuple[str, ...]:
    """Those that are not the name of a version (`v3`), each once."""
    return tuple(alias for alias in dict.fromkeys(aliases) if version_of(alias) is None)


def checked_alias(alias: str) -> str:
    """`alias`, if a user may give it to a version.

    Raises:
        InvalidInputError: empty, too long, with `/` or `:`, or the name of a version.
    """
    if version_of(alias) is not None:
        message = f"The alias '{alias}' is the name of a version and cannot be moved."
        raise InvalidInputError(message, hint=f"For example: `release-{alias[1:]}`.")
    if not alias.strip() or len(alias) > MAX_LENGTH or any(c in "/:" for c in alias):
        message = f"'{alias[:MAX_LENGTH]}' cannot be an alias: `/` and `:` may not stand in it, "
        message += f"and it has 1 to {MAX_LENGTH} characters."
        raise InvalidInputError(message, hint=f"Did you mean `{safe_name(alias) or LATEST}`?")
    return alias


def aliases_of(own: Iterable[str], image_alias: str | None = None) -> list[str]:
    """A new version's aliases: the user's, the image's tag, and `latest`; each once."""
    found = [*own, *([image_alias] if image_alias else []), LATEST]
    return list(dict.fromkeys(found))


def stored_remote(remote: str) -> str:
    """The remote as a job stores it: with its user, without its password.

    Everybody who may read the job could read a stored password; the agent that builds the
    job has credentials of its own.
    """
    parts = _with_password(remote)
    if parts is None:
        return remote
    user, _, _ = parts.netloc.rpartition("@")[0].partition(":")
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}@{host}" if user else host).geturl()


def named_remote(remote: str) -> str:
    """The remote as W&B's library writes it into names of jobs: `user:@host` for a password."""
    parts = _with_password(remote)
    if parts is None:
        return remote
    user = parts.username
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port is not None else ""
    return parts._replace(netloc=f"{user}:@{host}{port}").geturl()


def is_remote(text: str) -> bool:
    """Whether others can reach the repository, too: not a path or file of one machine."""
    return bool(_REMOTE.fullmatch(text) or SCP_LIKE.fullmatch(text))


def _with_password(remote: str) -> SplitResult | None:
    """The parts of a URL that carries a password; `None` for every other remote."""
    try:
        parts = urlsplit(remote)
        carries = parts.hostname is not None and parts.password is not None
        _ = parts.port
    except ValueError:
        return None
    return parts if carries else None


# ------------------------------------------------------------------ references

_FORM: Final = "The form is `entity/project/name:alias`, for example `acme/demo/train:latest`."
_SCHEME: Final = "wandb-artifact://"
_PART: Final = re.compile(r"[^/:\\?#%\x00-\x1f]{1,128}")
_PARTS: Final = 3
_NOUNS: Final = ("entity", "project", "job", "alias")


@dataclass(frozen=True, slots=True)
class JobReference:
    """One version of one job, by an alias."""

    entity: str
    project: str
    name: str
    alias: str = LATEST

    @property
    def version(self) -> int | None:
        """The version that is named by number; `None` when a free alias decides."""
        return version_of(self.alias)

    @property
    def job(self) -> str:
        """The job whatever its version: `entity/project/name`."""
        return f"{self.entity}/{self.project}/{self.name}"

    def __str__(self) -> str:
        return f"{self.job}:{self.alias}"


@dataclass(frozen=True, slots=True)
class CodeReference:
    """What a job's `artifact` key points to: an id of the server, or a name."""

    id: str | None = None
    name: JobReference | None = None

    def __str__(self) -> str:
        return f"{_SCHEME}_id/{self.id}" if self.id is not None else f"{_SCHEME}{self.name}"


def parse_reference(
    text: str, *, entity: str | None = None, project: str | None = None
) -> JobReference:
    """Read a job's reference; `entity` and `project` stand in for leading parts left out.

    Without an alias it is `latest`.

    Raises:
        InvalidInputError: says which part is missing or wrong, and the reading that is likely.
    """
    path, colon, alias = text.strip().removeprefix(_SCHEME).partition(":")
    parts = path.split("/")
    if len(parts) > _PARTS:
        _refuse_shape(text, parts)
    defaults = [entity, project][: _PARTS - len(parts)]
    leading = [part for part in defaults if part is not None]
    if len(leading) < len(defaults):
        message = f"The job reference '{text}' names no {_NOUNS[defaults.index(None)]}."
        raise InvalidInputError(message, hint=_FORM)
    named = [*leading, *parts, alias if colon else LATEST]
    for noun, part in zip(_NOUNS, named, strict=True):
        if not _PART.fullmatch(part) or part in {".", ".."}:
            message = f"The job reference '{text}': '{part}' is not the name of {_article(noun)}."
            raise InvalidInputError(message, hint=_FORM)
    return JobReference(*named)


def project_in(text: str) -> str:
    """The project that a reference names; empty when it names none. The entity may be left out."""
    path = text.strip().removeprefix(_SCHEME).partition(":")[0].split("/")
    return path[-2] if 1 < len(path) <= _PARTS else ""


def parse_code_reference(text: str) -> CodeReference:
    """Read the `artifact` key of a stored job.

    Raises:
        InvalidInputError: neither `wandb-artifact://_id/<id>` nor a full name behind the scheme.
    """
    if text.startswith(f"{_SCHEME}_id/"):
        parts = text.removeprefix(_SCHEME).split("/")
        if parts[1] and not re.search(r"[\s?#]", parts[1]):
            return CodeReference(id=parts[1])
    elif text.startswith(_SCHEME):
        return CodeReference(name=parse_reference(text))
    message = f"'{text[:200]}' does not refer to a code artifact."
    raise InvalidInputError(message, hint=f"The form is `{_SCHEME}_id/<id>`.")


def no_such_job(reference: JobReference, known: Iterable[str]) -> NotFoundError:
    """The error for a job that does not exist; `known` are the names in its project."""
    where = f"{reference.entity}/{reference.project}"
    message = f"There is no job `{reference.name}` in {where}."
    return NotFoundError(message, hint=did_you_mean(reference.name, known, "job"))


def no_such_version(reference: JobReference, known: Iterable[str]) -> NotFoundError:
    """The error for an alias or version that a job lacks; `known` are those that it has."""
    noun = "version" if reference.version is not None else "alias"
    message = f"The job {reference.job} has no {noun} `{reference.alias}`."
    return NotFoundError(message, hint=did_you_mean(reference.alias, known, noun))


def _refuse_shape(text: str, parts: list[str]) -> NoReturn:
    likely = _likely(text, [part for part in parts if part])
    hint = f"Did you mean `{likely}`?" if likely else _FORM
    message = f"'{text}' is not a job reference: it has {len(parts)} parts between slashes, not 3."
    raise InvalidInputError(message, hint=hint)


def _likely(text: str, parts: list[str]) -> str | None:
    """The reference behind a page's address, a slash too many, or a slash before the alias."""
    if "://" in text.removeprefix(_SCHEME):
        return None
    match parts:
        case [entity, project, ("jobs" | "job"), name]:
            return f"{entity}/{project}/{name}:{LATEST}"
        case [entity, project, name, alias]:
            return f"{entity}/{project}/{name}:{alias}"
        case [entity, project, name]:
            return f"{entity}/{project}/{name}:{LATEST}"
        case _:
            return None


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "ae" else f"a {noun}"
