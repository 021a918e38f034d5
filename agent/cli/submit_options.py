"""The options of `launch submit`, `launch run` and `launch render`, and how they are read."""

import os
from collections.abc import Iterable
from typing import Any, Final

import click

from agent.cli.options import SOURCE_OPTIONS, Json, mapping_from, pairs_from, priority_from
from agent.cli.output import print_stderr
from agent.jobs.request import SubmitOptions, check_options
from agent.model.errors import InvalidInputError
from agent.model.job.names import own_name
from agent.model.names import nearest
from agent.model.spec import LaunchSpec, Overrides, parse_spec

#: The project in which W&B keeps queues; ours have none.
_WANDB_QUEUE_PROJECT: Final = "model-registry"
#: Keys of launch specs that W&B's clients write, and that name nothing here.
_OTHER_KEYS: Final = frozenset({"git", "cuda", "uri", "parameters", "queue_entity"})
#: Similarity to a known key from which an unknown one counts as mistyped.
_MISTYPED: Final = 0.8

RUN_OPTIONS: Final = (
    click.option("-u", "--uri", help="A directory of code, or the URL of a git repository."),
    click.option("-j", "--job", help="An existing job: entity/project/name:alias."),
    click.option("-d", "--docker-image", help="A ready image."),
    click.option("-E", "--entry-point", help='What to run: "python main.py".'),
    click.option("-g", "--git-version", "--git-hash", help="Branch, tag or commit."),
    click.option(
        "--build-context", help="Folder of the source that is built.",
    ),
    click.option("-D", "--dockerfile", help="Dockerfile, relative to the build context."),
    click.option("-B", "--base-image", help="Base image of the generated Dockerfile."),
    click.option("--runtime", help="Python version of the job that --uri makes: 3.11."),
    click.option(
        "-J", "--job-name", help="Name of the job that --uri makes; WANDB_JOB_NAME by default.",
    ),
    *SOURCE_OPTIONS,
    click.option("--name", envvar="WANDB_NAME", help="Name of the run."),
    click.option(
        "-p", "--project", envvar=["LAUNCH_PROJECT", "WANDB_PROJECT"],
        help="Project of the run; the job's by default, else `default`.",
    ),
    click.option("-r", "--resource", help="Runner; the queue's by default."),
    click.option("--timeout", help="Stop it after this time: 90m, 12h."),
    click.option("--cpus", type=click.FloatRange(0, min_open=True), help="Cores it needs."),
    click.option("--memory", help="Memory it needs: 8GiB."),
    click.option("--gpus", type=click.IntRange(0), help="GPUs it needs."),
    click.option(
        "-c", "--config", metavar="FILE|JSON", help="A launch spec that the options are added to.",
    ),
    click.option("-R", "--resource-args", metavar="FILE|JSON", help="Arguments for the runner."),
    click.option("--async", "no_wait", is_flag=True, help="Run a direct run in the background."),
    click.option("-rg", "--repository", hidden=True),
)  # fmt: skip

QUEUE_OPTIONS: Final = (
    click.option(
        "-q", "--queue", is_flag=False, flag_value="default",
        help="Queue; -q alone means `default`. Without it the job runs on this machine, now.",
    ),
    click.option(
        "-v", "--set-var", "variables", multiple=True, metavar="K=V",
        help="Value of a template variable of the queue; repeatable.",
    ),
    click.option("-P", "--priority", help="critical, high, medium or low."),
    click.option("-pq", "--project-queue", hidden=True),
    click.option("-b", "--build", is_flag=True, hidden=True),
    click.option(
        "--retries", type=click.IntRange(0, 100),
        help="New attempts after failures that the job did not cause.",
    ),
    click.option(
        "--on-lost", type=click.Choice(["fail", "retry"]),
        help="What to do when contact to the machine that runs it is lost.",
    ),
    click.option("--idempotency-key", help="The same key gives the same item, for 24 hours."),
    click.option(
        "--dry-run", is_flag=True, help="As `launch render`: show what would be run.",
    ),
    click.option("--wait", is_flag=True, help="Wait for its end, and exit as it does."),
    click.option("--follow", is_flag=True, help="As --wait, and show phases and logs."),
)  # fmt: skip


def read_options(entity: str | None, flags: dict[str, Any]) -> SubmitOptions:
    """Check options in the order in which W&B's command line does.

    Raises:
        InvalidInputError: options that exclude or need each other, or a value that cannot be read.
    """
    queue: str | None = flags.pop("queue", None)
    priority: str | None = flags.pop("priority", None)
    variables: tuple[str, ...] = flags.pop("variables", ())
    build, project_queue = flags.pop("build", False), flags.pop("project_queue", None)
    if flags.pop("no_wait") and queue is not None:
        message = "--async and --queue exclude each other: a queued job is not waited for."
        raise InvalidInputError(message, hint="Leave --async out.")
    if priority is not None and queue is None:
        message = "--priority needs --queue: a direct run starts at once."
        raise InvalidInputError(message, hint="Name a queue, or leave --priority out.")
    config, resource_args = flags.pop("config"), flags.pop("resource_args")
    arguments = mapping_from(resource_args, "--resource-args") if resource_args else None
    base = _spec_from(config) if config else None
    if build and queue is None:
        message = "--build needs --queue."
        raise InvalidInputError(message, hint="A direct run builds what it needs by itself.")
    _remark_ignored(build=build, repository=flags.pop("repository"), project_queue=project_queue)
    if variables and queue is None:
        message = "--set-var needs --queue: template variables belong to queues."
        raise InvalidInputError(message, hint="Name a queue, or use --resource-args.")
    job_name: str | None = flags["job_name"]
    flags["name"] = flags["name"] or job_name
    if flags["uri"] is not None:
        flags["job_name"] = own_name(job_name, os.environ)
    options = SubmitOptions(
        **flags,
        entity=entity,
        base=base,
        resource_args=arguments,
        queue=queue,
        variables=pairs_from(variables, "--set-var"),
        priority=None if priority is None else priority_from(priority),
    )
    check_options(options)
    return options


def _spec_from(config: str) -> Json:
    """The launch spec of `--config`, checked by itself first."""
    base = mapping_from(config, "--config")
    parse_spec(base)
    for key in base:
        if not (key in LaunchSpec.model_fields or key in _OTHER_KEYS or key.startswith("_")):
            print_stderr(f"launch: --config: {_unknown(key, '', LaunchSpec.model_fields)}")
    for key in base.get("overrides") or {}:
        if key not in Overrides.model_fields:
            print_stderr(f"launch: --config: {_unknown(key, 'overrides.', Overrides.model_fields)}")
    return base


def _unknown(key: str, path: str, known: Iterable[str]) -> str:
    """A remark about a key that nothing reads; it is kept, since newer clients send more."""
    remark = f"`{path}{key}` is not known and has no effect."
    if key in Overrides.model_fields:
        return f"{remark} Is `overrides.{key}` meant?"
    if similar := nearest(key, known, cutoff=_MISTYPED):
        return f"{remark} Is `{path}{similar}` meant?"
    return f"{remark} Parameters of the run belong into `overrides.run_config`."


def _remark_ignored(*, build: bool, repository: str | None, project_queue: str | None) -> None:
    """Options that W&B's command line has, and that have no effect there either."""
    if build:
        print_stderr("launch: --build is not needed: the agent builds what it needs.")
    if repository:
        print_stderr(
            "launch: --repository has no effect: `builder.destination` of the agent names it."
        )
    if project_queue and project_queue != _WANDB_QUEUE_PROJECT:
        print_stderr(
            f"launch: --project-queue has no effect: all queues are in `{_WANDB_QUEUE_PROJECT}`."
        )
