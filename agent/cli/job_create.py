"""`launch job create`: make a job from Git, code or an image, without running it."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

import click

from agent.cli.connect import Target, json_option, on_server
from agent.cli.output import print_json, safe, say
from agent.cli.values import mapping_from
from agent.cli.workbench import open_workbench
from agent.model.errors import InvalidInputError
from agent.model.job.names import own_name
from agent.model.units import format_size

if TYPE_CHECKING:
    from agent.jobs.new_job import Made
    from agent.remote.console import Console

Json = dict[str, Any]
Command = Callable[..., Any]

#: Files after which people want to know how far it is.
_MANY: Final = 2000

#: Options that become fields of `NewJob` under the same name.
_FIELDS: Final = (
    click.option("-d", "--description", help="For people."),
    click.option("-a", "--alias", "aliases", multiple=True, help="Besides `latest`; repeatable."),
    click.option("-E", "--entry-point", help='What to run: "python main.py".'),
    click.option("-g", "--git-hash", "--git-version", "git_version", help="Branch, tag, commit."),
    click.option("-r", "--runtime", help="Python of the job: 3.11."),
    click.option("-b", "--build-context", help="Folder of the source that is built."),
    click.option("-B", "--base-image", help="Image that the source is put into."),
    click.option("-D", "--dockerfile", help="Dockerfile, relative to the build context."),
)
#: What else of a repository is fetched; also for `launch submit --uri`.
REPOSITORY: Final = (
    click.option(
        "--submodules/--no-submodules", default=None,
        help="Whether repositories inside the repository are fetched; a stored job's are, if "
             "nothing is said.",
    ),
    click.option("--lfs", is_flag=True, default=None, help="Fetch files in Git LFS, too."),
)  # fmt: skip
#: How a directory here becomes a job; also for `launch submit --uri`.
DIRECTORY: Final = (
    click.option(
        "--source", type=click.Choice(["auto", "git", "code"]), default="auto",
        help="git: a directory's repository is the source, if its commit is pushed.",
    ),
    click.option("--diff", "with_diff", is_flag=True, help="With --source git: take uncommitted "
                 "changes along."),
)  # fmt: skip


def with_options(options: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """Give a command several options, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command("create")
@click.option(
    "-p", "--project", envvar=["LAUNCH_PROJECT", "WANDB_PROJECT"], help="Where the job belongs."
)
@click.option("-n", "--name", help="The job's name; WANDB_JOB_NAME names it, too.")
@with_options(_FIELDS)
@with_options(REPOSITORY)
@with_options(DIRECTORY)
@click.option("-s", "--service", "services", multiple=True, hidden=True)
@click.option("--schema", hidden=True)
@on_server
@json_option
@click.argument("kind", metavar="git|code|image", type=click.Choice(["git", "code", "image"]))
@click.argument("path", metavar="PATH")
def create(
    target: Target,
    *,
    kind: Literal["git", "code", "image"],
    path: str,
    project: str | None,
    name: str | None,
    services: tuple[str, ...],
    schema: str | None,
    source: Literal["auto", "git", "code"],
    with_diff: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Make a job without running it.

    PATH is the URL of a repository (git), a directory or a file of code (code), or an image's
    name (image). With nothing changed since the last version, nothing is stored.
    """
    from agent.jobs.author import check_git_url
    from agent.jobs.new_job import NewJob, services_from

    if not project:
        message = "No project is given."
        raise InvalidInputError(message, hint="Add --project, or set WANDB_PROJECT.")
    if kind == "git":
        check_git_url(path)
    _check_git_flags(kind, source, fields)
    said = {
        **fields,
        "name": own_name(name, os.environ),
        "services": services_from(services),
        "schema": schema_from(schema) if schema else None,
    }

    async def work(console: "Console") -> "Made":
        from agent.jobs.create import create_job

        entity = await console.acting_entity()
        wanted = NewJob(kind=kind, path=path, entity=entity, project=project, **said)
        async with open_workbench(console) as bench:
            return await create_job(
                bench, wanted, source=source, with_diff=with_diff, progress=tell_progress
            )

    made = target.call(work)
    if as_json:
        print_json(_as_json(made))
        return
    announce(made)
    base = target.remote().url
    place = quote(f"{made.reference.entity}/{made.reference.project}")
    print(f"  Look at it: {base}/{place}/jobs")


def _check_git_flags(kind: str, source: str, fields: Json) -> None:
    """Flags of repositories are refused for what is none."""
    if source != "auto" and kind not in {"code", source}:
        message = f"--source says what a directory becomes, and this is a job of type {kind}."
        raise InvalidInputError(message, hint="Leave it out.")
    may_be_git = kind == "git" or (kind == "code" and source == "git")
    for flag, said, fits in (
        ("--git-hash", fields["git_version"], kind == "git"),
        ("--submodules", fields["submodules"] is not None, may_be_git),
        ("--lfs", fields["lfs"], may_be_git),
    ):
        if said and not fits:
            message = f"{flag} belongs to Git jobs, and this is a job of type {kind}."
            raise InvalidInputError(message, hint="Leave it out.")


def tell_progress(done: int, total: int) -> None:
    """A line now and then, for those who send very many files."""
    if total > _MANY and done < total and done % _MANY == 0:
        say(f"launch: {done} of {total} files are there.")


def announce(made: "Made") -> None:
    """What was made, in W&B's words, and what was chosen for whoever made it."""
    for remark in made.remarks:
        say(f"launch: {remark}")
    plural = "alias" if len(made.aliases) == 1 else "aliases"
    named = f", with {plural} {', '.join(made.aliases)}" if made.aliases else ""
    print(safe(f"{made.action} job: {made.reference}{named}"))
    if made.sent_files:
        sent = "1 file was" if made.sent_files == 1 else f"{made.sent_files} files were"
        say(f"launch: {sent} sent, {format_size(made.sent_bytes)}.")


def schema_from(text: str) -> Json:
    """A JSON schema from a `.json` or `.yaml` file.

    Raises:
        InvalidInputError: no mapping can be read, or it is no JSON schema.
    """
    schema = mapping_from(text, "--schema")
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = "/".join(str(part) for part in error.absolute_path) or "the whole"
        message = f"--schema: it is no JSON schema: {place}: {error.message}."
        raise InvalidInputError(message) from None
    return schema


def _as_json(made: "Made") -> Json:
    return {
        "action": made.action,
        "job": str(made.reference),
        "aliases": list(made.aliases),
        "commit": made.commit,
        "remarks": list(made.remarks),
        "sentFiles": made.sent_files,
        "sentBytes": made.sent_bytes,
    }
