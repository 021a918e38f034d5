"""`launch render`: the server composes and checks a submission; this machine previews the rest.

The source is fetched, and builder and runner say what they would build and start, as an agent of
this user on this machine would. Nothing is stored, queued, built or started.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.compose.backends import BackendContext, make_sources, open_preview_backend
from agent.config.agent import AgentConfig
from agent.jobs.create import open_job_store
from agent.jobs.draft import JobDraft, draft_job
from agent.jobs.request import SubmitOptions
from agent.jobs.submission import launch_spec, template_values
from agent.model.capacity import Allocation
from agent.model.errors import NotFoundError
from agent.model.job.job_file import FILE_NAME
from agent.model.job.names import LATEST, CodeReference, JobReference
from agent.model.names import CONTAINERS
from agent.model.phase import Phase
from agent.model.redact import MASK
from agent.model.spec import Json, parse_spec
from agent.model.work import Claim, CodeVersion, Lease
from agent.pipeline.dependencies import ResolveDependencies
from agent.pipeline.preview import KNOWN_AT_LAUNCH, Preview, preview
from agent.ports.artifact import Artifact, ArtifactEntry
from agent.ports.log import LogSink, write_line
from agent.remote.artifacts.reader import RemoteArtifacts
from agent.remote.artifacts.transfers import Transfers
from agent.remote.user_operations import UserOperations
from agent.sources.artifact import LocalFolder

_THREADS: Final = 4
#: In place of the id of a code artifact that is not uploaded.
_NOT_UPLOADED: Final = "not-uploaded"
_NEW_VERSION: Final = CodeVersion(KNOWN_AT_LAUNCH, KNOWN_AT_LAUNCH)


async def preview_submission(
    api: UserOperations,
    config: AgentConfig,
    options: SubmitOptions,
    log: LogSink,
    *,
    server_side: bool = False,
) -> Preview:
    """What a submission would be run as; `server_side`: by the word of the backend's server.

    Raises:
        LaunchError: what would refuse the submission or its run, with the same message.
    """
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="launch-preview-")))
        job = await _draft(api, options, log)
        claim = await _dry_run(api, options, job, log)
        context = BackendContext(
            config, os.environ, threads, api.client.endpoint.url,
            control_plane=None, resources=(claim.resource,), embedded_elsewhere=True,
        )  # fmt: skip
        client = api.client
        transfers = Transfers(
            client.endpoint.ca_bundle, proxied=client.proxied, retry_policy=client.retry_policy
        )
        stored = RemoteArtifacts(client, await stack.enter_async_context(transfers))
        sources, _ = make_sources(context, job or stored)
        if job is not None:
            sources = replace(sources, artifact=LocalFolder(job.folder, threads, _NEW_VERSION))
        # Backends keep nothing: their files are in the temporary folder.
        own = config.model_copy(update={"state_dir": folder})
        backend = await open_preview_backend(stack, replace(context, config=own), claim.resource)
        # A machine whose configuration has none is taken for a submitter's, not for the agent's.
        dependencies = ResolveDependencies(
            sources=sources,
            executor=threads,
            secrets=config.secrets or None,
            mounts=config.mounts or None,
        )
        return await preview(claim, backend, dependencies, folder, log, server_side=server_side)


async def _draft(api: UserOperations, options: SubmitOptions, log: LogSink) -> "_DraftedJob | None":
    """The job that the submission would make first."""
    if options.uri is None:
        return None
    request = options.job_request(await api.acting_entity())
    async with open_job_store(api.client) as store:
        draft = await draft_job(store, request)
    job = _DraftedJob(draft)
    for remark in job.remarks:
        await write_line(log, remark)
    return job


async def _dry_run(
    api: UserOperations, options: SubmitOptions, job: "_DraftedJob | None", log: LogSink
) -> Claim:
    """The claim that an agent would receive for the submission."""
    name = options.job if job is None else str(job.reference)
    values = None
    if options.queue is not None:
        values = await template_values(api, options.queue, options)
    answer = await api.dry_run(
        options.queue,
        await asyncio.to_thread(launch_spec, options, name),
        templateVariables=values,
        priority=options.priority,
        jobFile=None if job is None else job.document,
    )
    for warning in answer["warnings"]:
        if job is None or warning not in job.remarks:
            await write_line(log, warning)
    spec = parse_spec(answer["runSpec"])
    return Claim(
        lease=Lease(KNOWN_AT_LAUNCH, 1, 1),
        phase=Phase.LEASED,
        entity=str(answer["entityName"]),
        project=str(answer["projectName"]),
        queue=str(answer["queueName"]),
        run_name=spec.run_id or KNOWN_AT_LAUNCH,
        name=spec.name,
        author=spec.author,
        resource=str(answer["resource"] or CONTAINERS),
        spec=spec,
        layers=answer["layers"],
        allocation=Allocation(cpus=answer["cpus"], memory=answer["memory"], gpus=()),
        run_token=MASK,
        stop_requested=False,
    )


class _DraftedJob:
    """`ArtifactPort` with one job, which is not stored."""

    def __init__(self, draft: JobDraft) -> None:
        request = draft.request
        self.remarks = draft.remarks
        self.reference = JobReference(request.entity, request.project, draft.name, LATEST)
        path = Path(request.path).expanduser()
        #: The files of a code job; of a single file, its directory.
        self.folder = (path if path.is_dir() else path.parent).resolve()
        contents = draft.contents(_NOT_UPLOADED if draft.code_name else None)
        self._files = {each.path: each for each in contents}

    @property
    def document(self) -> Json:
        """The job file."""
        document: Json = json.loads(self._files[FILE_NAME].origin)
        return document

    async def find(self, reference: JobReference) -> Artifact:
        """See `ArtifactPort`."""
        del reference
        entries = {
            path: ArtifactEntry(path, file.digest, file.size) for path, file in self._files.items()
        }
        return Artifact(_NOT_UPLOADED, self.reference, "job", entries)

    async def find_code(self, reference: CodeReference) -> Artifact:
        """See `ArtifactPort`; the code is read from its directory instead."""
        raise NotFoundError(f"The code {reference} is not uploaded.")

    async def read(self, artifact: Artifact, path: str) -> AsyncGenerator[bytes, None]:
        """See `ArtifactPort`."""
        del artifact
        content = self._files[path].origin
        if isinstance(content, bytes):
            yield content
