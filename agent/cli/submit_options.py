"""The flags of `launch submit` and `launch run`, and which of them go together."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from agent.cli.job_create import DIRECTORY, REPOSITORY
from agent.cli.output import say
from agent.cli.values import mapping_from, pairs_from, priority_from
from agent.jobs.author import (
    Wishes,
    check_combination,
    check_directory,
    check_entry_point,
    check_git_url,
    is_git,
    job_project,
)
from agent.model.errors import InvalidInputError
from agent.model.job.names import own_name
from agent.model.names import nearest
from agent.model.spec import LaunchSpec, parse_spec

if TYPE_CHECKING:
    from agent.jobs.new_job import Kind, NewJob

Json = dict[str, Any]
Command = Callable[..., Any]

DEFAULT_PROJECT: Final = "default"
#: Where W&B keeps queues; ours have no project.
_QUEUES: Final = "model-registry"
#: How much a key has to look like a known one to be taken for a mistake.
_MISTYPED: Final = 0.8

WISHES: Final = (
    click.option("-u", "--uri", help="A directory of code, or the URL of a git repository."),
    click.option("-j", "--job", help="A job that exists: entity/project/name:alias."),
    click.option("-d", "--docker-image", help="A ready image."),
    click.option("-E", "--entry-point", help='What to run: "python main.py".'),
    click.option("-g", "--git-version", "--git-hash", help="Branch, tag or commit."),
    click.option("--build-context", help="Folder of the source that is built."),
    click.option("-D", "--dockerfile", help="Dockerfile, relative to the build context."),
    click.option("-B", "--base-image", help="Image that the source is put into."),
    click.option("-J", "--job-name", help="Name of the job that --uri makes; WANDB_JOB_NAME."),
    *REPOSITORY,
    *DIRECTORY,
    click.option("--name", envvar="WANDB_NAME", help="Name of the run, for people."),
    click.option(
        "-p", "--project", envvar=["LAUNCH_PROJECT", "WANDB_PROJECT"],
        help="Where the run is written; the job's by default, else `default`.",
    ),
    click.option("-r", "--resource", help="Runner; the queue's by default."),
    click.option("--timeout", help="Stop it after this time: 90m, 12h."),
    click.option("--cpus", type=click.FloatRange(0, min_open=True), help="Cores it needs."),
    click.option("--memory", help="Memory it needs: 8GiB."),
    click.option("--gpus", type=click.IntRange(0), help="Devices it needs."),
    click.option("-c", "--config", metavar="FILE|JSON", help="A launch spec to start from."),
    click.option("-R", "--resource-args", metavar="FILE|JSON", help="Arguments for the runner."),
    click.option("--async", "no_wait", is_flag=True, help="A direct run goes on by itself."),
    click.option("-rg", "--repository", hidden=True),
)  # fmt: skip

QUEUEING: Final = (
    click.option(
        "-q", "--queue", is_flag=False, flag_value="default",
        help="Queue; -q alone means `default`. Without it the job is run here and now.",
    ),
    click.option("-v", "--set-var", "variables", multiple=True, metavar="K=V"),
    click.option("-P", "--priority", help="critical, high, medium or low."),
    click.option("-pq", "--project-queue", hidden=True),
    click.option("-b", "--build", is_flag=True, hidden=True),
    click.option(
        "--retries", type=click.IntRange(0, 100),
        help="New attempts for causes that are not the job's own.",
    ),
    click.option(
        "--on-lost", type=click.Choice(["fail", "retry"]),
        help="What to do when the machine that runs it is gone.",
    ),
    click.option("--idempotency-key", help="The same key gives the same item, for 24 hours."),
    click.option(
        "--dry-run", is_flag=True, help="Show what it would become, as `launch render`; no more.",
    ),
    click.option("--wait", is_flag=True, help="Wait for its end, and end as it does."),
    click.option("--follow", is_flag=True, help="As --wait, and show phases and logs."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What one call of the command asks for, read and checked."""

    wishes: Wishes
    #: `None` means here and now.
    queue: str | None
    job_name: str | None
    variables: Mapping[str, str] = field(default_factory=dict)
    priority: int | None = None
    source: Literal["auto", "git", "code"] = "auto"
    with_diff: bool = False

    @property
    def makes_job(self) -> bool:
        """Whether a job is made first."""
        return self.wishes.uri is not None

    def new_job(self, entity: str) -> "NewJob":
        """The job that `--uri` stands for."""
        from agent.jobs.new_job import NewJob

        wishes = self.wishes
        uri = wishes.uri or ""
        kind: Kind = "git" if is_git(uri) else "code"
        return NewJob(
            kind=kind,
            path=uri,
            entity=wishes.entity or entity,
            project=wishes.project or DEFAULT_PROJECT,
            name=self.job_name,
            entry_point=wishes.entry_point,
            git_version=wishes.git_version,
            submodules=wishes.submodules,
            lfs=wishes.lfs,
            build_context=wishes.build_context,
            dockerfile=wishes.dockerfile,
            base_image=wishes.base_image,
        )


def read_flags(entity: str | None, flags: dict[str, Any]) -> Asked:
    """Check flags in the order in which W&B's command line does.

    Raises:
        InvalidInputError: flags that exclude or need each other, or a value that cannot be read.
    """
    queue: str | None = flags.pop("queue", None)
    priority: str | None = flags.pop("priority", None)
    variables: tuple[str, ...] = flags.pop("variables", ())
    build, project_queue = flags.pop("build", False), flags.pop("project_queue", None)
    if flags.pop("no_wait") and queue is not None:
        message = "--async and --queue exclude each other: what is queued is not waited for."
        raise InvalidInputError(message, hint="Leave --async out.")
    if priority is not None and queue is None:
        message = "--priority needs --queue: nothing waits in a direct run."
        raise InvalidInputError(message, hint="Name a queue, or leave --priority out.")
    config, resource_args = flags.pop("config"), flags.pop("resource_args")
    args = mapping_from(resource_args, "--resource-args") if resource_args else None
    base = _spec_from(config) if config else None
    if build and queue is None:
        message = "--build needs --queue."
        raise InvalidInputError(message, hint="A direct run builds what it needs by itself.")
    _remark_ignored(build=build, repository=flags.pop("repository"), project_queue=project_queue)
    job_name = flags.pop("job_name")
    source, with_diff = flags.pop("source"), flags.pop("with_diff")
    flags["name"] = flags.pop("name") or job_name
    wishes = Wishes(**flags, entity=entity, base=base, resource_args=args)
    _check_uri(wishes, source, with_diff=with_diff)
    if variables and queue is None:
        message = "--set-var needs --queue: template variables belong to queues."
        raise InvalidInputError(message, hint="Name a queue, or use --resource-args.")
    check_combination(wishes)
    return Asked(
        wishes=_with_project(wishes),
        queue=queue,
        job_name=own_name(job_name, os.environ) if wishes.uri is not None else job_name,
        variables=pairs_from(variables, "--set-var"),
        priority=None if priority is None else priority_from(priority),
        source=source,
        with_diff=with_diff,
    )


def _spec_from(config: str) -> Json:
    """The launch spec of `--config`; of the whole, its shape is looked at first."""
    base = mapping_from(config, "--config")
    parse_spec(base)
    known = LaunchSpec.model_fields
    for key in base:
        # Keys that we do not know are kept, since newer clients send more.
        near = None if key in known else nearest(key, known, cutoff=_MISTYPED)
        if near is not None:
            say(f"launch: --config: `{key}` is not known and has no effect. Is `{near}` meant?")
    return base


def _check_uri(wishes: Wishes, source: str, *, with_diff: bool) -> None:
    if wishes.uri is None:
        if source != "auto" or with_diff:
            message = "--source and --diff belong to --uri."
            raise InvalidInputError(message, hint="A job that exists has its source.")
        return
    check_entry_point(wishes)
    named = wishes.job or (wishes.base or {}).get("job")
    if named is not None:
        message = f"--uri and --job exclude each other: --uri makes a job, '{named}' is one."
        raise InvalidInputError(message, hint="Leave one of them out.")
    if is_git(wishes.uri):
        check_git_url(wishes.uri, wishes.git_version)
        if source == "code":
            message = f"--source code is for a directory, and '{wishes.uri}' is a repository."
            raise InvalidInputError(message, hint="Leave it out, or give a directory.")
        return
    check_directory(wishes.uri)
    if wishes.git_version is not None:
        message = f"--git-version belongs to a git repository, and '{wishes.uri}' is a directory."
        raise InvalidInputError(message, hint="Leave it out, or give the repository's URL.")
    for flag, said in (("--submodules", wishes.submodules), ("--lfs", wishes.lfs)):
        if said is not None and source != "git":
            message = f"{flag} belongs to a git repository, and '{wishes.uri}' is a directory."
            hint = "Leave it out: what lies in the directory is taken; or add --source git."
            raise InvalidInputError(message, hint=hint)


def _with_project(wishes: Wishes) -> Wishes:
    """Flag, configuration, the job's own project, `default`."""
    from dataclasses import replace

    said = wishes.project or (wishes.base or {}).get("project") or job_project(wishes)
    return replace(wishes, project=str(said or DEFAULT_PROJECT))


def _remark_ignored(*, build: bool, repository: str | None, project_queue: str | None) -> None:
    """Flags that W&B's command line has and that do nothing there either."""
    if build:
        say("launch: --build is not needed: the agent builds what it needs.")
    if repository:
        say("launch: --repository has no effect: `builder.destination` of the agent says where.")
    if project_queue and project_queue != _QUEUES:
        say(f"launch: --project-queue has no effect: all queues are in `{_QUEUES}`.")
