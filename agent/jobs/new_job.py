"""What is said about a job that shall be made, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.model.errors import InvalidInputError
from agent.model.job.reference import JobReference
from agent.remote.artifacts.reading import Content

Kind = Literal["git", "code", "image"]


@dataclass(frozen=True, slots=True)
class NewJob:
    """What was said; `None` and empty were not said. Paths are as they were written."""

    kind: Kind
    #: URL of a repository, a directory or file here, or an image.
    path: str
    entity: str
    project: str
    #: Checked by `agent.model.job.names.own_name`.
    name: str | None = None
    description: str | None = None
    aliases: tuple[str, ...] = ()
    entry_point: str | None = None
    git_version: str | None = None
    submodules: bool | None = None
    lfs: bool | None = None
    runtime: str | None = None
    build_context: str | None = None
    base_image: str | None = None
    dockerfile: str | None = None
    services: Mapping[str, str] = field(default_factory=dict)
    #: JSON schema of the run's configuration.
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A job but for the id of its code, which the server gives."""

    name: str
    words: tuple[str, ...]
    runtime: str | None
    #: `requirements.frozen.txt`.
    frozen: str = ""
    #: Name and files of its code artifact.
    code_name: str | None = None
    code: tuple[Content, ...] = ()
    #: Remote and commit.
    pinned: tuple[str, str] | None = None
    #: Uncommitted changes, `diff.patch`; sources need not be UTF-8.
    diff: bytes | None = None
    #: The image's tag.
    image_alias: str | None = None
    #: For people: what was chosen for them, and why.
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """A job that the server has."""

    #: With the version as its alias.
    reference: JobReference
    #: `Created`, `Updated` or `No changes detected for`.
    action: str
    aliases: tuple[str, ...]
    remarks: tuple[str, ...]
    sent_files: int
    sent_bytes: int
    commit: str | None = None


def services_from(texts: tuple[str, ...]) -> dict[str, str]:
    """`name=policy` texts of `--service`; of several for one name the last counts.

    Raises:
        InvalidInputError: no name, no `=`, or a policy other than `always` and `never`.
    """
    services: dict[str, str] = {}
    for text in texts:
        name, equals, policy = text.partition("=")
        if not equals or not name.strip():
            message = f"--service: '{text}' is not of the form NAME=POLICY."
            raise InvalidInputError(message, hint="For example: --service proxy=always.")
        if policy not in {"always", "never"}:
            message = f"--service {name}: '{policy}' is no policy."
            raise InvalidInputError(message, hint="Write `always` or `never`.")
        services[name.strip()] = policy
    return services
