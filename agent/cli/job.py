"""`launch job`: create, list, describe, versions, alias, delete, automatic."""

import json
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from agent.cli.options import (
    SOURCE_OPTIONS,
    Json,
    Result,
    Target,
    example,
    json_option,
    mapping_from,
    on_server,
    with_options,
)
from agent.cli.output import (
    Columns,
    format_age,
    print_json,
    print_list,
    print_pairs,
    print_stderr,
)
from agent.cli.terminal import escape_control_characters
from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.job.job_file import FILE_NAME, PATCH_NAME, read_job_file
from agent.model.job.names import LATEST, JobReference, checked_alias, free_aliases, own_name
from agent.model.json_schema import UnusableSchemaError, check_schema
from agent.model.names import did_you_mean
from agent.model.units import format_size

if TYPE_CHECKING:
    from agent.jobs.create import CreatedJob
    from agent.jobs.request import JobKind
    from agent.remote.artifacts.versions import ArtifactVersions
    from agent.remote.user_operations import UserOperations

_project = click.option(
    "-p", "--project", envvar=["LAUNCH_PROJECT", "WANDB_PROJECT"], help="Project of the job."
)


#: Progress is reported after every so many files.
_PROGRESS_FILES: Final = 2000

#: Options that are fields of `JobRequest`, under the same names.
_FIELDS: Final = (
    click.option("-d", "--description", help="A description, shown with the job."),
    click.option("-a", "--alias", "aliases", multiple=True, help="Alias besides `latest`."),
    click.option("-E", "--entry-point", help='What to run: "python main.py".'),
    click.option("-g", "--git-hash", "--git-version", "git_version", help="Branch, tag or commit."),
    click.option("-r", "--runtime", help="Python version of the job: 3.11."),
    click.option(
        "-b",
        "--build-context",
        help="Folder of the source that is built.",
    ),
    click.option("-B", "--base-image", help="Base image of the generated Dockerfile."),
    click.option("-D", "--dockerfile", help="Dockerfile, relative to the build context."),
)


@click.group()
def job() -> None:
    """Create, list and describe jobs, which can be launched any number of times."""


@job.command(
    "create",
    epilog=example(
        'launch job create -p demo -n hello code ./examples/hello -E "python main.py"',
        'launch job create -p demo git https://host/org/repo.git -g v1.2 -E "python train.py"',
        "launch job create -p demo image python:3.11-slim",
    ),
)
@_project
@click.option("-n", "--name", help="Name of the job; WANDB_JOB_NAME by default.")
@with_options(_FIELDS)
@with_options(SOURCE_OPTIONS)
@click.option("-s", "--service", "services", multiple=True, hidden=True)
@click.option(
    "--schema", metavar="FILE", help="JSON schema of the parameters, which submissions must fit."
)
@on_server
@json_option
@click.argument("kind", metavar="git|code|image", type=click.Choice(["git", "code", "image"]))
@click.argument("path", metavar="PATH")
def create(
    target: Target,
    *,
    kind: "JobKind",
    path: str,
    project: str | None,
    name: str | None,
    services: tuple[str, ...],
    schema: str | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Create a job without running it.

    PATH is the URL of a repository (git), a directory or a file of code (code), or an image's
    name (image). With nothing changed since the last version, nothing is stored.
    """
    from agent.jobs.create import create_job, open_job_store
    from agent.jobs.request import JobRequest, check_git_url

    project = _required(project)
    if kind == "git":
        check_git_url(path)
    _check_git_options(kind, fields)
    fields |= {
        "name": own_name(name, os.environ),
        "services": services_from(services),
        "schema": _schema_from(schema) if schema else None,
    }

    async def work(api: "UserOperations") -> "CreatedJob":
        entity = await api.acting_entity()
        request = JobRequest(kind=kind, path=path, entity=entity, project=project, **fields)
        async with open_job_store(api.client) as store:
            return await create_job(store, request, print_progress)

    version = target.call(work)
    if as_json:
        print_json({
            "action": version.action,
            "job": str(version.reference),
            "aliases": version.aliases,
            "commit": version.commit,
            "remarks": version.remarks,
            "sentFiles": version.sent_files,
            "sentBytes": version.sent_bytes,
        })  # fmt: skip
        return
    print_version(version)
    place = quote(f"{version.reference.entity}/{version.reference.project}")
    print(f"  Page: {target.remote().url}/{place}/jobs")


@job.command("list", epilog=example("launch job list -p demo"))
@_project
@on_server
@json_option
def list_jobs(target: Target, project: str | None, *, as_json: bool) -> None:
    """List a project's jobs."""
    project = _required(project)
    from agent.jobs.create import open_job_store

    async def work(api: "UserOperations") -> list[Json]:
        entity = await api.acting_entity()
        async with open_job_store(api.client) as store:
            jobs = await store.artifacts.jobs(entity, project)
        if jobs is None:
            print_stderr(f"launch: there is no project `{project}` in `{entity}`.")
        return jobs or []

    found = target.call(work)
    print_list(found, _JOB_COLUMNS, "No jobs found", as_json=as_json)


@job.command("describe", epilog=example("launch job describe demo/hello:latest"))
@_project
@on_server
@json_option
@click.argument("reference", metavar="ENTITY/PROJECT/JOB:ALIAS")
def describe(target: Target, reference: str, project: str | None, *, as_json: bool) -> None:
    """Show one version of a job: its source, and how it is built and started."""

    async def work(
        artifacts: "ArtifactVersions", named: JobReference
    ) -> tuple[JobReference, Json, str, str | None]:
        version = await artifacts.version(named)
        text = await artifacts.text(named, version["id"], FILE_NAME)
        try:
            diff = await artifacts.text(named, version["id"], PATCH_NAME)
        except NotFoundError:
            diff = None
        return named, version, text, diff

    named, version, text, diff = _with_artifacts(target, reference, project, work)
    raw: Json = json.loads(text)
    if as_json:
        print_json({**version, "job": raw, "diff": diff})
        return
    _print_repairs(text)
    number = f"{named.job}:v{version['versionIndex']}"
    print_pairs([
        ("job", number),
        ("aliases", ", ".join(version["aliases"])),
        ("description", version.get("description")),
        ("created", format_age(version.get("createdAt"))),
        *((key, _shown(value)) for key, value in raw.items() if not key.startswith("_")),
        ("uncommitted changes", diff),
    ])  # fmt: skip


@job.command("versions", epilog=example("launch job versions demo/hello"))
@_project
@on_server
@json_option
@click.argument("reference", metavar="ENTITY/PROJECT/JOB")
def versions(target: Target, reference: str, project: str | None, *, as_json: bool) -> None:
    """List the versions of a job, newest first."""
    found = _with_artifacts(
        target, reference, project, lambda artifacts, named: artifacts.versions(named)
    )
    print_list(found, _VERSION_COLUMNS, "No versions", as_json=as_json)


@job.command("alias", epilog=example("launch job alias demo/hello:v0 best"))
@_project
@click.option("--remove", is_flag=True, help="Remove the aliases instead.")
@on_server
@click.argument("reference", metavar="ENTITY/PROJECT/JOB:VERSION")
@click.argument("aliases", metavar="ALIAS...", nargs=-1, required=True)
def alias(
    target: Target,
    reference: str,
    project: str | None,
    aliases: tuple[str, ...],
    *,
    remove: bool,
) -> None:
    """Add aliases to a version of a job, and remove them from any other version."""
    for each in aliases:
        checked_alias(each)

    async def work(artifacts: "ArtifactVersions", named: JobReference) -> str:
        version = await artifacts.version(named)
        if remove:
            _check_present(named, aliases, version["aliases"])
            await artifacts.remove_aliases(named, version["id"], aliases)
        else:
            await artifacts.add_aliases(named, version["id"], aliases)
        return f"{named.job}:v{version['versionIndex']}"

    changed = _with_artifacts(target, reference, project, work)
    done = "no longer has" if remove else "has"
    listed = ", ".join(f"`{each}`" for each in aliases)
    print(f"{changed} {done} {listed}")


@job.command("delete", epilog=example("launch job delete demo/hello:v0"))
@_project
@click.option("--all-versions", is_flag=True, help="The whole job.")
@on_server
@click.argument("reference", metavar="ENTITY/PROJECT/JOB:VERSION")
def delete(target: Target, reference: str, project: str | None, *, all_versions: bool) -> None:
    """Delete one version of a job, or the whole job."""
    if all_versions == (":" in reference.rpartition("/")[2]):
        message = f"'{reference}' " + (
            "names a version, and --all-versions means the whole job."
            if all_versions
            else "names no version."
        )
        raise InvalidInputError(message, hint="Write JOB:v3, or JOB --all-versions.")

    async def work(artifacts: "ArtifactVersions", named: JobReference) -> list[str]:
        if all_versions:
            chosen = await artifacts.versions(named)
        else:
            chosen = [await artifacts.version(named)]
        for each in chosen:
            await artifacts.delete(each["id"])
        return [_deleted(named, each) for each in chosen]

    for line in _with_artifacts(target, reference, project, work):
        print(escape_control_characters(line))


@job.command("automatic", epilog=example("launch job automatic off -p demo"))
@_project
@on_server
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"]))
def automatic(target: Target, project: str | None, switch: str) -> None:
    """Whether runs become jobs when they end: those of --project, else your own."""
    enabled = switch == "on"
    if project:
        target.call(lambda api: api.set_job_creation(project, enabled=enabled))
    else:
        target.call(lambda api: api.set_own_job_creation(enabled=enabled))
    whose = f"Runs of the project '{project}'" if project else "Your runs"
    become = "become jobs" if enabled else "become no jobs"
    print(escape_control_characters(f"{whose} {become} when they end."))


def _with_artifacts(
    target: Target,
    reference: str,
    project: str | None,
    work: "Callable[[ArtifactVersions, JobReference], Awaitable[Result]]",
) -> Result:
    """Call `work` with the server's artifacts and the full reference of a job."""
    from agent.jobs.create import open_job_store

    async def call(api: "UserOperations") -> Result:
        named = await api.job_reference(reference, project)
        async with open_job_store(api.client) as store:
            return await work(store.artifacts, named)

    return target.call(call)


def _required(project: str | None) -> str:
    if not project:
        message = "No project is given."
        raise InvalidInputError(message, hint="Add --project, or set WANDB_PROJECT.")
    return project


def _deleted(named: JobReference, version: Json) -> str:
    # `latest` moves to the newest version that remains.
    free = [f"`{each}`" for each in free_aliases(version["aliases"]) if each != LATEST]
    aliases = f", and with it {', '.join(free)}" if free else ""
    return f"Deleted {named.job}:v{version['versionIndex']}{aliases}"


def _check_present(named: JobReference, aliases: tuple[str, ...], existing: list[str]) -> None:
    for each in aliases:
        if each not in existing:
            message = f"{named} has no alias `{each}`."
            raise NotFoundError(message, hint=did_you_mean(each, free_aliases(existing), "alias"))


def _print_repairs(text: str) -> None:
    try:
        repairs = read_job_file(text).repairs
    except InvalidInputError as error:
        print_stderr(f"launch: this job cannot be launched: {error}")
        return
    for repair in repairs:
        print_stderr(f"launch: when it is launched, {repair}.")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_JOB_COLUMNS: Final[Columns] = {
    "JOB": lambda each: each["name"],
    "VERSIONS": lambda each: len(each["versions"]),
    "CREATED": lambda each: format_age(each["versions"][0]["createdAt"]),
    "ALIASES": lambda each: ", ".join(
        alias for one in each["versions"] for alias in reversed(one["aliases"])
    ),
}
_VERSION_COLUMNS: Final[Columns] = {
    "VERSION": lambda each: f"v{each['versionIndex']}",
    "ALIASES": lambda each: ", ".join(free_aliases(each["aliases"])),
    "CREATED": lambda each: format_age(each["createdAt"]),
    "SIZE": lambda each: format_size(int(each["size"])),
    "DIGEST": lambda each: each["digest"],
}


def _check_git_options(kind: str, fields: Json) -> None:
    """Refuse options of repositories for other sources."""
    source = fields["source"]
    if source != "auto" and kind not in {"code", source}:
        message = f"--source says what a directory becomes, and this is a job of type {kind}."
        raise InvalidInputError(message, hint="Leave it out.")
    may_be_git = kind == "git" or (kind == "code" and source == "git")
    for flag, given, fits in (
        ("--git-hash", fields["git_version"], kind == "git"),
        ("--submodules", fields["submodules"] is not None, may_be_git),
        ("--lfs", fields["lfs"], may_be_git),
    ):
        if given and not fits:
            message = f"{flag} belongs to Git jobs, and this is a job of type {kind}."
            raise InvalidInputError(message, hint="Leave it out.")


def print_progress(done: int, total: int) -> None:
    """A line for every so many files that have been sent."""
    if total > _PROGRESS_FILES and done < total and done % _PROGRESS_FILES == 0:
        print_stderr(f"launch: {done} of {total} files are uploaded.")


def print_version(version: "CreatedJob", *, as_remark: bool = False) -> None:
    """Print what was made, in W&B's words, with the remarks about it.

    `as_remark`: standard output is for the job's own output.
    """
    for remark in version.remarks:
        print_stderr(f"launch: {remark}")
    plural = "alias" if len(version.aliases) == 1 else "aliases"
    named = f", with {plural} {', '.join(version.aliases)}" if version.aliases else ""
    line = f"{version.action} job: {version.reference}{named}"
    if as_remark:
        print_stderr(f"launch: {line}")
    else:
        print(escape_control_characters(line))
    if version.sent_files:
        count = "1 file was" if version.sent_files == 1 else f"{version.sent_files} files were"
        print_stderr(f"launch: {count} uploaded, {format_size(version.sent_bytes)}.")


def _schema_from(text: str) -> Json:
    """A JSON schema from a `.json` or `.yaml` file.

    Raises:
        InvalidInputError: no mapping can be read, or it is not a JSON schema.
    """
    schema = mapping_from(text, "--schema")
    try:
        check_schema(schema)
    except UnusableSchemaError as error:
        message = f"--schema: it is not a JSON schema that can be used: {error.message}"
        raise InvalidInputError(message, hint=error.hint) from None
    return schema


def services_from(texts: tuple[str, ...]) -> dict[str, str]:
    """`name=policy` texts of `--service`; of several for one name the last counts."""
    services: dict[str, str] = {}
    for text in texts:
        name, equals, policy = text.partition("=")
        if not equals or not name.strip():
            message = f"--service: '{text}' is not of the form NAME=POLICY."
            raise InvalidInputError(message, hint="For example: --service proxy=always.")
        if policy not in {"always", "never"}:
            message = f"--service {name}: '{policy}' is not a policy."
            raise InvalidInputError(message, hint="Write `always` or `never`.")
        services[name.strip()] = policy
    return services
