"""Making a job: draft it, store its code, store it; reads top to bottom."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, assert_never

from agent.jobs.contents import small_content, text_content
from agent.jobs.drafting import draft_code, draft_image, place_and_command
from agent.jobs.new_job import Draft, Made, NewJob
from agent.model.errors import AlreadyExistsError, InvalidInputError
from agent.model.job import frozen, job_file, names
from agent.model.job.entry_point import notebook_of
from agent.model.job.names import stored_remote
from agent.model.job.reference import CodeReference, JobReference
from agent.remote.artifacts import documents
from agent.remote.artifacts.lookup import JOB
from agent.remote.artifacts.reading import Content
from agent.remote.artifacts.transfers import Transfers
from agent.remote.artifacts.upload import NewVersion, Stored, Uploads
from agent.remote.artifacts.versions import Artifacts
from agent.remote.client import GraphQLClient

if TYPE_CHECKING:
    from agent.jobs.repository import Repositories

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workbench:
    """What jobs are made with."""

    client: GraphQLClient
    transfers: Transfers
    #: Opened when a job has one: most have none, and git is a lot to import.
    repositories: Callable[[], "Repositories"]

    @property
    def artifacts(self) -> Artifacts:
        """The read half."""
        return Artifacts(self.client, self.transfers)


async def create_job(
    bench: Workbench,
    wanted: NewJob,
    *,
    source: Literal["auto", "git", "code"] = "auto",
    with_diff: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Made:
    """Make a job, or a new version of it, or nothing when nothing has changed.

    For a directory here, `source` says whether its repository shall be the source; where that
    cannot be, it becomes a code job, and a remark tells why. `with_diff` takes uncommitted
    changes along. `progress` hears how many files are there, and of how many.

    Raises:
        InvalidInputError: what was said, or a file, cannot be used; nothing is stored.
        AlreadyExistsError: the name is taken by an artifact of another type.
        UnreachableError: the connection failed for too long; no version is left behind.
    """
    draft, wanted = await draft_job(bench, wanted, source=source, with_diff=with_diff)
    async with Uploads(bench.client, bench.transfers, progress) as uploads:
        code = await _store_code(uploads, wanted, draft)
        stored = await uploads.store(_version(wanted, draft, code))
    return await _made(bench, wanted, draft, code, stored)


async def draft_job(
    bench: Workbench,
    wanted: NewJob,
    *,
    source: Literal["auto", "git", "code"] = "auto",
    with_diff: bool = False,
) -> tuple[Draft, NewJob]:
    """All that can be refused, looked at; a checkout's job comes back as that of its repository.

    Raises: as `create_job`; nothing is sent.
    """
    for alias in wanted.aliases:
        if alias != names.LATEST:
            names.checked_alias(alias)
    draft, wanted = await _draft(bench, wanted, source, with_diff=with_diff)
    await _check_types(bench, wanted, draft)
    return draft, wanted


async def _draft(
    bench: Workbench, wanted: NewJob, source: str, *, with_diff: bool
) -> tuple[Draft, NewJob]:
    if with_diff and not (wanted.kind == "code" and source == "git"):
        message = "--diff belongs to a local checkout with --source git."
        raise InvalidInputError(message, hint="Other sources are stored as they are.")
    match wanted.kind:
        case "image":
            return draft_image(wanted), wanted
        case "git":
            return await bench.repositories().draft(wanted), wanted
        case "code":
            return await _draft_directory(bench, wanted, source, with_diff=with_diff)
        case _:
            assert_never(wanted.kind)


async def _draft_directory(
    bench: Workbench, wanted: NewJob, source: str, *, with_diff: bool
) -> tuple[Draft, NewJob]:
    remark = f"'{wanted.path}' becomes a code job."
    if source == "git":
        from agent.jobs.repository import draft_checkout

        directory, said = await asyncio.to_thread(place_and_command, wanted)
        placed = replace(wanted, path=directory, entry_point=said)
        found = await draft_checkout(bench.repositories(), placed, with_diff=with_diff)
        if not isinstance(found, str):
            draft, asked = found
            told = f"'{wanted.path}' becomes a Git job of {stored_remote(asked.path)}."
            return replace(draft, remarks=(told, *draft.remarks)), asked
        remark = f"'{wanted.path}' becomes a code job, not a Git job: {found}."
    draft = await asyncio.to_thread(draft_code, wanted)
    return replace(draft, remarks=(remark, *draft.remarks)), wanted


async def _check_types(bench: Workbench, wanted: NewJob, draft: Draft) -> None:
    """W&B's servers would mix artifacts of two types in one collection; nobody wants that."""
    kinds = {draft.name: JOB, **({draft.code_name: "code"} if draft.code_name else {})}
    found = await asyncio.gather(
        *(bench.artifacts.type_of(wanted.entity, wanted.project, name) for name in kinds)
    )
    for (name, kind), there in zip(kinds.items(), found, strict=True):
        if there not in {None, kind}:
            message = (
                f"The name '{name}' is taken in {wanted.entity}/{wanted.project} by an artifact "
                f"of type `{there}`; a {kind} artifact cannot have it, too."
            )
            raise AlreadyExistsError(message, hint="Choose another name by --name.")


async def _store_code(uploads: Uploads, wanted: NewJob, draft: Draft) -> Stored | None:
    if draft.code_name is None:
        return None
    return await uploads.store(
        NewVersion(
            entity=wanted.entity,
            project=wanted.project,
            type="code",
            collection=draft.code_name,
            contents=draft.code,
        )
    )


def job_contents(wanted: NewJob, draft: Draft, code_id: str | None) -> list[Content]:
    """The files of a job's artifact; `code_id` is that of its code, if it has any."""
    stored = job_file.job_file(
        _source(wanted, draft, code_id), runtime=draft.runtime, services=wanted.services
    )
    contents = [
        text_content(job_file.FILE_NAME, job_file.write_job_file(stored)),
        text_content(frozen.FILE_NAME, draft.frozen),
    ]
    if draft.diff is not None:
        contents.append(small_content(job_file.PATCH_NAME, draft.diff))
    return contents


def _version(wanted: NewJob, draft: Draft, code: Stored | None) -> NewVersion:
    schema = wanted.schema
    return NewVersion(
        entity=wanted.entity,
        project=wanted.project,
        type=JOB,
        collection=draft.name,
        contents=job_contents(wanted, draft, code.id if code else None),
        aliases=names.aliases_of(wanted.aliases, draft.image_alias),
        description=wanted.description,
        metadata=(
            {"_partial": True}
            if schema is None
            else {"input_schemas": {"@wandb.config": dict(schema)}}
        ),
    )


def _source(wanted: NewJob, draft: Draft, code_id: str | None) -> job_file.JobSource:
    if draft.pinned is None and code_id is None:
        return job_file.JobImageSource(image=wanted.path)
    built: Json = {
        "entrypoint": list(draft.words),
        "notebook": notebook_of(draft.words) is not None,
        "build_context": wanted.build_context,
        "dockerfile": wanted.dockerfile,
        "base_image": wanted.base_image,
    }
    if code_id is not None:
        return job_file.JobArtifactSource(artifact=str(CodeReference(id=code_id)), **built)
    remote, commit = draft.pinned or ("", "")
    git = job_file.Git(
        remote=remote, commit=commit, submodules=wanted.submodules, lfs=wanted.lfs or None
    )
    return job_file.JobRepoSource(git=git, **built)


async def _made(
    bench: Workbench, wanted: NewJob, draft: Draft, code: Stored | None, stored: Stored
) -> Made:
    data = await bench.client.execute(documents.BY_ID, {"id": stored.id})
    version: Json = data.get("artifact") or {}
    free = [each["alias"] for each in version.get("aliases") or []]
    kept = tuple(alias for alias in free if names.version_of(alias) is None)
    number = version.get("versionIndex")
    alias = names.LATEST if number is None else f"v{number}"
    return Made(
        reference=JobReference(wanted.entity, wanted.project, draft.name, alias),
        action=stored.action,
        aliases=kept,
        remarks=draft.remarks,
        sent_files=stored.sent_files + (code.sent_files if code else 0),
        sent_bytes=stored.sent_bytes + (code.sent_bytes if code else 0),
        commit=draft.pinned[1] if draft.pinned else None,
    )
