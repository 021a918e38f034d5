"""References to jobs and to their code: `entity/project/name:alias`, `wandb-artifact://…`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.job.names import LATEST, version_of
from agent.model.names import did_you_mean

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
