"""A job draft, stored: its code first, then the job; the version that the server then has."""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.jobs.draft import JobDraft, draft_job
from agent.jobs.request import JobRequest
from agent.model.job import names
from agent.model.job.names import JobReference
from agent.remote.artifacts.transfers import Transfers
from agent.remote.artifacts.upload import ArtifactUploader, NewVersion, StoredVersion
from agent.remote.artifacts.versions import JOB, ArtifactVersions
from agent.remote.client import ControlPlaneClient

if TYPE_CHECKING:
    from agent.jobs.repository import Repositories

Json = dict[str, Any]

_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class JobStore:
    """The server's jobs, and this machine's access to repositories that jobs are made from."""

    client: ControlPlaneClient
    transfers: Transfers
    #: Called only for jobs of a repository, since the git modules are slow to import.
    repositories: Callable[[], "Repositories"]

    @property
    def artifacts(self) -> ArtifactVersions:
        """Reads versions and changes their aliases."""
        return ArtifactVersions(self.client, self.transfers)


@asynccontextmanager
async def open_job_store(
    client: ControlPlaneClient, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[JobStore]:
    """A job store on an open session.

    Repositories are fetched as an agent of this user would: with the same configuration, the
    same credentials and, on the same machine, the same mirrors.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="work") as threads:

        def repositories() -> "Repositories":
            from agent.config.load import load
            from agent.jobs.repository import Repositories

            config = load(environment).config
            cache = config.state_dir / "cache" / "git"
            return Repositories(config.sources.git, cache, environment, threads)

        async with Transfers(
            client.endpoint.ca_bundle, proxied=client.proxied, retry_policy=client.retry_policy
        ) as transfers:
            yield JobStore(client, transfers, repositories)


@dataclass(frozen=True, slots=True)
class CreatedJob:
    """The version that `create_job` made or found, and what it sent for it."""

    #: With the version's number as its alias.
    reference: JobReference
    #: `Created`, `Updated` or `No changes detected for`.
    action: str
    aliases: tuple[str, ...]
    remarks: tuple[str, ...]
    sent_files: int
    sent_bytes: int
    commit: str | None = None


async def create_job(
    store: JobStore,
    request: JobRequest,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> CreatedJob:
    """Make a job, or a new version of it, or nothing when nothing has changed.

    `progress` receives the number of files that have been sent, and of all.

    Raises:
        InvalidInputError, AlreadyExistsError: see `draft_job`; nothing is stored.
        UnreachableError: the connection failed for too long; no version is left behind.
    """
    draft = await draft_job(store, request)
    async with ArtifactUploader(store.client, store.transfers, progress) as uploads:
        code = await _store_code(uploads, draft)
        stored = await uploads.store(_new_version(draft, code))
    return await _version(store, draft, code, stored)


async def _store_code(uploads: ArtifactUploader, draft: JobDraft) -> StoredVersion | None:
    if draft.code_name is None:
        return None
    return await uploads.store(
        NewVersion(
            entity=draft.request.entity,
            project=draft.request.project,
            type="code",
            collection=draft.code_name,
            contents=draft.code,
        )
    )


def _new_version(draft: JobDraft, code: StoredVersion | None) -> NewVersion:
    request, schema = draft.request, draft.request.schema
    return NewVersion(
        entity=request.entity,
        project=request.project,
        type=JOB,
        collection=draft.name,
        contents=draft.contents(code.id if code else None),
        aliases=names.aliases_of(request.aliases, draft.image_alias),
        description=request.description,
        metadata=(
            {"_partial": True}
            if schema is None
            else {"input_schemas": {"@wandb.config": dict(schema)}}
        ),
    )


async def _version(
    store: JobStore, draft: JobDraft, code: StoredVersion | None, stored: StoredVersion
) -> CreatedJob:
    version = await store.artifacts.by_id(stored.id) or {}
    aliases = [each["alias"] for each in version.get("aliases") or []]
    number = version.get("versionIndex")
    request, alias = draft.request, names.LATEST if number is None else f"v{number}"
    return CreatedJob(
        reference=JobReference(request.entity, request.project, draft.name, alias),
        action=stored.action,
        aliases=names.free_aliases(aliases),
        remarks=draft.remarks,
        sent_files=stored.sent_files + (code.sent_files if code else 0),
        sent_bytes=stored.sent_bytes + (code.sent_bytes if code else 0),
        commit=draft.pinned[1] if draft.pinned else None,
    )
