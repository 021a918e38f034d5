"""`launch job`: create, list, describe, versions, alias, delete."""

import json
from typing import TYPE_CHECKING, Any

import click

from agent.cli.connect import Target, json_option, on_server
from agent.cli.job_create import create
from agent.cli.output import ago, print_json, print_pairs, print_table, safe, say
from agent.cli.workbench import open_workbench
from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.job.job_file import FILE_NAME, read_job_file
from agent.model.job.names import LATEST, checked_alias, version_of
from agent.model.job.reference import JobReference
from agent.model.names import did_you_mean
from agent.model.units import format_size

if TYPE_CHECKING:
    from agent.remote.console import Console

Json = dict[str, Any]

_project = click.option(
    "-p", "--project", envvar=["LAUNCH_PROJECT", "WANDB_PROJECT"], help="Whose jobs."
)


@click.group()
def job() -> None:
    """Make, list and look at jobs: what can be launched again and again."""


job.add_command(create)


@job.command("list")
@_project
@on_server
@json_option
def list_jobs(target: Target, project: str | None, *, as_json: bool) -> None:
    """List a project's jobs."""
    if not project:
        message = "No project is given."
        raise InvalidInputError(message, hint="Add --project, or set WANDB_PROJECT.")

    async def work(console: "Console") -> list[Json]:
        entity = await console.acting_entity()
        async with open_workbench(console) as bench:
            jobs = await bench.artifacts.jobs(entity, project)
        if jobs is None:
            say(f"launch: there is no project `{project}` in `{entity}`.")
        return jobs or []

    found = target.call(work)
    if as_json:
        print_json(found)
        return
    print_table(
        ("JOB", "VERSIONS", "CREATED", "ALIASES"),
        [_job_row(each) for each in found],
        "No jobs found",
    )


@job.command("describe")
@_project
@on_server
@json_option
@click.argument("reference", metavar="ENTITY/PROJECT/JOB:ALIAS")
def describe(target: Target, reference: str, project: str | None, *, as_json: bool) -> None:
    """Show one version of a job: where its code comes from, how it is built and started."""

    async def work(console: "Console") -> tuple[JobReference, Json, str]:
        named = await console.job_reference(reference, project)
        async with open_workbench(console) as bench:
            version = await bench.artifacts.version(named)
            text = await bench.artifacts.text(named, version["id"], FILE_NAME)
        return named, version, text

    named, version, text = target.call(work)
    raw: Json = json.loads(text)
    if as_json:
        print_json({**version, "job": raw})
        return
    _say_repairs(text)
    number = f"{named.job}:v{version['versionIndex']}"
    print_pairs([
        ("job", number),
        ("aliases", ", ".join(version["aliases"])),
        ("description", version.get("description")),
        ("created", ago(version.get("createdAt"))),
        *((key, _shown(value)) for key, value in raw.items() if not key.startswith("_")),
    ])  # fmt: skip


@job.command("versions")
@_project
@on_server
@json_option
@click.argument("reference", metavar="ENTITY/PROJECT/JOB")
def versions(target: Target, reference: str, project: str | None, *, as_json: bool) -> None:
    """List the versions of a job, newest first."""

    async def work(console: "Console") -> list[Json]:
        named = await console.job_reference(reference, project)
        async with open_workbench(console) as bench:
            return await bench.artifacts.versions(named)

    found = target.call(work)
    if as_json:
        print_json(found)
        return
    print_table(
        ("VERSION", "ALIASES", "CREATED", "SIZE", "DIGEST"),
        [_version_row(each) for each in found],
        "No versions",
    )


@job.command("alias")
@_project
@click.option("--remove", is_flag=True, help="Take the aliases away instead.")
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
    """Give aliases to a version of a job; they leave the version that had them."""
    for each in aliases:
        checked_alias(each)

    async def work(console: "Console") -> tuple[JobReference, Json]:
        named = await console.job_reference(reference, project)
        async with open_workbench(console) as bench:
            version = await bench.artifacts.version(named)
            if remove:
                _refuse_absent(named, aliases, version["aliases"])
                await bench.artifacts.remove_aliases(named, version["id"], aliases)
            else:
                await bench.artifacts.add_aliases(named, version["id"], aliases)
        return named, version

    named, version = target.call(work)
    done = "no longer has" if remove else "has"
    listed = ", ".join(f"`{each}`" for each in aliases)
    print(f"{named.job}:v{version['versionIndex']} {done} {listed}")


@job.command("delete")
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

    async def work(console: "Console") -> list[str]:
        named = await console.job_reference(reference, project)
        async with open_workbench(console) as bench:
            chosen = (
                await bench.artifacts.versions(named)
                if all_versions
                else [await bench.artifacts.version(named)]
            )
            for each in chosen:
                await bench.artifacts.delete(each["id"])
        return [_deleted(named, each) for each in chosen]

    for line in target.call(work):
        print(safe(line))


def _deleted(named: JobReference, version: Json) -> str:
    # `latest` moves to the newest that is left.
    free = [a for a in version["aliases"] if version_of(a) is None and a != LATEST]
    aliases = f", and with it {', '.join(f'`{each}`' for each in free)}" if free else ""
    return f"Deleted {named.job}:v{version['versionIndex']}{aliases}"


def _refuse_absent(named: JobReference, aliases: tuple[str, ...], there: list[str]) -> None:
    for each in aliases:
        if each not in there:
            message = f"{named} has no alias `{each}`."
            free = [known for known in there if version_of(known) is None]
            raise NotFoundError(message, hint=did_you_mean(each, free, "alias"))


def _say_repairs(text: str) -> None:
    try:
        repairs = read_job_file(text).repairs
    except InvalidInputError as error:
        say(f"launch: this job cannot be launched: {error}")
        return
    for repair in repairs:
        say(f"launch: when it is launched, {repair}.")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _job_row(each: Json) -> tuple[object, ...]:
    newest = each["versions"][0]
    aliases = [alias for one in each["versions"] for alias in reversed(one["aliases"])]
    return each["name"], len(each["versions"]), ago(newest["createdAt"]), ", ".join(aliases)


def _version_row(each: Json) -> tuple[object, ...]:
    free = [alias for alias in each["aliases"] if version_of(alias) is None]
    size = format_size(int(each["size"]))
    return f"v{each['versionIndex']}", ", ".join(free), ago(each["createdAt"]), size, each["digest"]
