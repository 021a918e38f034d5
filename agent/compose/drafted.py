"""The job that a submission would make, drafted and stored nowhere, for looking at it."""

import os
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from agent.config.agent import AgentConfig
from agent.jobs.draft import draft_job
from agent.jobs.repository import Repositories
from agent.jobs.request import JobRequest
from agent.jobs.version import JobStore
from agent.model.errors import NotFoundError
from agent.model.job.names import LATEST
from agent.model.job.reference import CodeReference, JobReference
from agent.ports.artifact import Artifact, Entry
from agent.remote.artifacts.contents import Content
from agent.remote.artifacts.transfers import Transfers
from agent.remote.console import Console

#: Stands for the code's id, which the server gives when it is sent.
_UNSENT: Final = "not-sent"


def folder_of(request: JobRequest) -> Path:
    """Where a code job's files lie; of a file, its directory."""
    path = Path(request.path).expanduser()
    return (path if path.is_dir() else path.parent).resolve()


class DraftedJob:
    """`ArtifactPort` whose every job is this one."""

    def __init__(
        self, reference: JobReference, files: Mapping[str, Content], remarks: tuple[str, ...]
    ) -> None:
        self.reference = reference
        #: For people: what was chosen for them, and why.
        self.remarks = remarks
        self._files = files

    async def find(self, reference: JobReference) -> Artifact:
        """See `ArtifactPort`."""
        del reference
        entries = {path: Entry(path, file.digest, file.size) for path, file in self._files.items()}
        return Artifact(_UNSENT, self.reference, "job", entries)

    async def find_code(self, reference: CodeReference) -> Artifact:
        """See `ArtifactPort`; the code lies in a directory here, and is read there."""
        message = f"The code {reference} was not sent."
        raise NotFoundError(message)

    async def read(self, artifact: Artifact, path: str) -> AsyncGenerator[bytes, None]:
        """See `ArtifactPort`."""
        del artifact
        held = self._files[path].origin
        if isinstance(held, bytes):
            yield held


async def draft(
    console: Console, config: AgentConfig, threads: Executor, request: JobRequest
) -> DraftedJob:
    """Look at everything that making the job would look at: files, the repository, names.

    Raises:
        LaunchError: what would refuse the job, in the same words.
    """
    cache = config.state_dir / "cache" / "git"
    repositories = Repositories(config.sources.git, cache, os.environ, threads)
    client = console.client
    async with Transfers(client.endpoint.ca_bundle, proxied=client.proxied) as transfers:
        store = JobStore(client, transfers, lambda: repositories)
        found = await draft_job(store, request)
    contents = found.contents(_UNSENT if found.code_name else None)
    place = found.request
    reference = JobReference(place.entity, place.project, found.name, LATEST)
    return DraftedJob(reference, {each.path: each for each in contents}, found.remarks)
