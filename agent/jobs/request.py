"""What was asked for: a job to be made or a run to be submitted; which options fit together."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from agent.model.errors import InvalidInputError
from agent.model.job.names import SCP_LIKE, project_in, stored_remote
from agent.model.names import DEFAULT_PROJECT
from agent.model.redact import has_credential

Json = dict[str, Any]
JobKind = Literal["git", "code", "image"]
#: What a directory becomes: `git` asks for its repository, if the commit can be fetched.
SourceChoice = Literal["auto", "git", "code"]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_GIT_SCHEMES: Final = frozenset({"https", "http", "ssh", "file"})


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job to be made; `None` and empty mean not given. Paths are as they were written."""

    kind: JobKind
    #: URL of a repository, a directory or file of this machine, or an image.
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
    source: SourceChoice = "auto"
    #: Include uncommitted changes of a checkout.
    with_diff: bool = False


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """The options of one submission; `None` and empty mean not given."""

    #: A directory or a repository, from which a job is made first.
    uri: str | None = None
    #: Reference to an existing job: `entity/project/name:alias`.
    job: str | None = None
    docker_image: str | None = None
    entry_point: str | None = None
    git_version: str | None = None
    submodules: bool | None = None
    lfs: bool | None = None
    build_context: str | None = None
    dockerfile: str | None = None
    base_image: str | None = None
    #: Of the job that `uri` makes.
    job_name: str | None = None
    runtime: str | None = None
    source: SourceChoice = "auto"
    with_diff: bool = False
    #: Of the run.
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
    #: A launch spec that the other options are added to.
    base: Mapping[str, Any] | None = None
    #: `{"<resource>": {...}}`.
    resource_args: Mapping[str, Any] | None = None
    #: `None`: a direct run on this machine.
    queue: str | None = None
    #: Values of the queue's template variables, as texts.
    variables: Mapping[str, str] = field(default_factory=dict)
    priority: int | None = None

    def from_base(self, key: str) -> Any:
        """A value of the launch spec that the options start from."""
        return (self.base or {}).get(key)

    def run_project(self) -> str:
        """The option, the launch spec's, the job's own, else `default`."""
        job = str(self.job or self.from_base("job") or "")
        return str(self.project or self.from_base("project") or project_in(job) or DEFAULT_PROJECT)

    def job_request(self, entity: str) -> JobRequest:
        """The job that `uri` stands for, in an entity unless the options name another."""
        uri = self.uri or ""
        return JobRequest(
            kind="git" if is_git(uri) else "code",
            path=uri,
            entity=self.entity or entity,
            project=self.run_project(),
            name=self.job_name,
            entry_point=self.entry_point,
            git_version=self.git_version,
            submodules=self.submodules,
            lfs=self.lfs,
            build_context=self.build_context,
            dockerfile=self.dockerfile,
            base_image=self.base_image,
            runtime=self.runtime,
            source=self.source,
            with_diff=self.with_diff,
        )


def check_options(options: SubmitOptions) -> None:
    """Refuse options that exclude or need each other, before the server is asked for anything.

    Raises:
        InvalidInputError: names them.
    """
    image = options.docker_image or (options.from_base("docker") or {}).get("docker_image")
    job = options.job or options.from_base("job")
    if image is not None and job is not None:
        message = f"The job `{job}` and the image `{image}` exclude each other."
        raise InvalidInputError(message, hint="A run has one source: give --job or -d.")
    if options.base_image is not None and options.job is not None:
        message = "--base-image belongs to --uri: an existing job has its own."
        raise InvalidInputError(message, hint="Create the job again with --base-image.")
    if options.docker_image is not None:
        _check_image(options)
    if options.uri is not None:
        _check_uri(options, options.uri, job)
        return
    _refuse_options_of_uri(options)
    if not (options.from_base("source") or image or job):
        message = "The job has no source."
        hint = "Give --job, --uri (a directory or git URL) or --docker-image."
        raise InvalidInputError(message, hint=hint)


def _check_image(options: SubmitOptions) -> None:
    if options.uri is not None:
        message = "--uri and --docker-image exclude each other: a job has one source."
        raise InvalidInputError(message, hint="To run code in a given image, use --base-image.")
    if options.base_image is not None:
        message = "--base-image and --docker-image exclude each other."
        raise InvalidInputError(message, hint="A ready image is run as it is.")


def _refuse_options_of_uri(options: SubmitOptions) -> None:
    if options.source != "auto" or options.with_diff:
        message = "--source and --diff belong to --uri."
        raise InvalidInputError(message, hint="An existing job has its source.")
    if options.runtime is not None:
        message = "--runtime belongs to --uri: an existing job and an image have their own Python."
        raise InvalidInputError(message, hint="Create the job again with --runtime.")
    for flag, given in (("--submodules", options.submodules), ("--lfs", options.lfs)):
        if given is not None:
            message = f"{flag} belongs to --uri, which names a repository."
            raise InvalidInputError(message, hint="An existing job has its own setting.")
    if options.git_version is not None and not options.base:
        message = "--git-version belongs to a git repository, and there is no --uri."
        raise InvalidInputError(message)


def _check_uri(options: SubmitOptions, uri: str, job: str | None) -> None:
    _check_entry_point(options, uri)
    if job is not None:
        message = f"--uri and --job exclude each other: --uri makes a job, '{job}' exists."
        raise InvalidInputError(message, hint="Leave one of them out.")
    if is_git(uri):
        check_git_url(uri, options.git_version)
        if options.source == "code":
            message = f"--source code is for a directory, and '{uri}' is a repository."
            raise InvalidInputError(message, hint="Leave it out, or give a directory.")
        return
    if not uri.strip():
        message = "--uri is empty, which would mean the current directory."
        raise InvalidInputError(message, hint="Write `.` if that is meant.")
    if not Path(uri).expanduser().exists():
        message = f"--uri: {uri} is neither a directory here nor the URL of a git repository."
        hint = "Check the path; git URLs start with https:// or ssh://."
        raise InvalidInputError(message, hint=hint)
    if options.git_version is not None:
        message = f"--git-version belongs to a git repository, and '{uri}' is a directory."
        raise InvalidInputError(message, hint="Leave it out, or give the repository's URL.")
    for flag, given in (("--submodules", options.submodules), ("--lfs", options.lfs)):
        if given is not None and options.source != "git":
            message = f"{flag} belongs to a git repository, and '{uri}' is a directory."
            hint = "Leave it out: the directory is taken as it is; or add --source git."
            raise InvalidInputError(message, hint=hint)


def _check_entry_point(options: SubmitOptions, uri: str) -> None:
    """A source needs a command, a Dockerfile, or to be a file that can be run."""
    overrides = options.from_base("overrides") or {}
    given = (options.entry_point, options.dockerfile)
    if any(given) or overrides.get("entry_point") or overrides.get("dockerfile"):
        return
    if is_git(uri) or not Path(uri).expanduser().is_file():
        message = "--uri needs --entry-point, which says what to run."
        hint = 'For example --entry-point "python main.py"; or give a --dockerfile.'
        raise InvalidInputError(message, hint=hint)


def is_git(uri: str) -> bool:
    """Whether a URI names a git repository rather than a directory of this machine."""
    return bool(_URL.match(uri) or (SCP_LIKE.fullmatch(uri) and not Path(uri).exists()))


def check_git_url(url: str, ref: str | None = None) -> None:
    """Refuse what cannot be a repository's URL; a password in it is used, but never stored.

    Raises:
        InvalidInputError: no URL, or a scheme that git sources do not have.
    """
    if not is_git(url):
        message = f"'{url}' is not the URL of a git repository."
        hint = "Use https://, ssh:// or user@host:path; a directory becomes a code job."
        raise InvalidInputError(message, hint=hint)
    remote = stored_remote(url)
    # First, so that no message shows the password of a malformed URL.
    refuse_password(remote, "--uri")
    for text in (remote, ref or ""):
        if text.startswith("-"):
            message = f"'{text}' looks like an option of git, and is not accepted."
            raise InvalidInputError(message)
    scheme, separator, _ = remote.partition("://")
    if separator and scheme.lower() not in _GIT_SCHEMES:
        message = f"'{remote}': `{scheme}` is not a protocol of git sources."
        raise InvalidInputError(message, hint="Use https://, ssh:// or user@host:path.")


def refuse_password(url: str, where: str) -> None:
    """Refuse a URL with a password.

    Raises:
        InvalidInputError: names `where`, an option or a path of the launch spec, not the URL.
    """
    if has_credential(url):
        message = f"{where}: the URL contains a password or token, which would be stored."
        hint = "Leave it out: the agent's credential helper or configuration has it."
        raise InvalidInputError(message, hint=hint)
