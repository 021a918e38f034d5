"""`launch render`: what a submission would become on this machine's agent; nothing is queued."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent.compose.backends import CONTAINERS, PROCESSES
from agent.compose.drafted import DraftedJob, draft, folder_of
from agent.config.agent import AgentConfig
from agent.control.services.composition import (
    Composed,
    check_priority,
    compose,
    parse_variables,
    resolve_values,
)
from agent.control.services.job_inputs import check_inputs
from agent.control.store.queues import QueueRecord
from agent.jobs.request import JobRequest, SubmitOptions
from agent.jobs.submission import launch_spec, template_values
from agent.model.capacity import Allocation
from agent.model.errors import InvalidInputError
from agent.model.job.reference import parse_reference
from agent.model.phase import Phase
from agent.model.redact import MASK
from agent.model.spec import Json
from agent.model.work import Claim, Image, Lease
from agent.pipeline.dependencies import Backend, ResolveDependencies, Sources
from agent.pipeline.preview import OPEN, Preview, preview
from agent.pipeline.stored_job import read_job
from agent.ports.log import LogSink, say
from agent.remote.artifacts.reader import RemoteArtifacts
from agent.remote.artifacts.transfers import Transfers
from agent.remote.artifacts.versions import ArtifactVersions
from agent.remote.console import Console
from agent.sources.artifact import ArtifactFetcher, LocalFolder
from agent.sources.git.source import GitFetcher

_THREADS: Final = 4


async def render_submission(
    console: Console, config: AgentConfig, asked: SubmitOptions, log: LogSink
) -> Preview:
    """Look up what a real run would look up, in a folder that is gone afterwards.

    Raises:
        LaunchError: what would refuse the submission or its run, in the same words.
    """
    queue = await _queue(console, asked.queue)
    if asked.queue is not None:
        check_priority(queue, asked.priority)
    entity = await console.acting_entity()
    values = await template_values(console, queue.name, asked) if asked.queue else None
    making = asked.job_request(entity) if asked.uri is not None else None
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="launch-render-")))
        drafted = await _drafted(console, config, threads, making, log)
        job = asked.job if drafted is None else str(drafted.reference)
        spec = await asyncio.to_thread(launch_spec, asked, job)
        client = console.client
        transfers = Transfers(client.endpoint.ca_bundle, proxied=client.proxied)
        jobs = RemoteArtifacts(client, await stack.enter_async_context(transfers))
        bench = _workbench(jobs, config, threads, drafted, making)
        claim = await _claim(bench, queue, spec, values or {}, entity)
        if drafted is None:
            await _check_inputs(console, claim)
        backend = await stack.enter_async_context(
            _lane(claim.resource, config, folder, threads, console)
        )
        return await preview(claim, backend, bench, folder, log)


async def _drafted(
    console: Console,
    config: AgentConfig,
    threads: ThreadPoolExecutor,
    making: JobRequest | None,
    log: LogSink,
) -> DraftedJob | None:
    if making is None:
        return None
    drafted = await draft(console, config, threads, making)
    for remark in drafted.remarks:
        await say(log, remark)
    return drafted


async def _queue(console: Console, name: str | None) -> QueueRecord:
    found: Json = {} if name is None else await console.queue(name)
    variables = {each["name"]: _variable(each) for each in found.get("templateVariables") or ()}
    return QueueRecord(
        id="",
        entity=str(found.get("entityName") or ""),
        name=name or "",
        access="PROJECT",
        created_by="",
        resource=found.get("resource"),
        config=found.get("config") or {},
        template_variables=parse_variables(variables),
        prioritization=found.get("prioritizationMode") or "DISABLED",
        external_links=None,
        resource_config_id=None,
        paused=False,
        created_at=datetime.now(UTC),
    )


def _variable(given: Json) -> Json:
    """One of the wire's variables, whose schema is JSON text, as queues keep it."""
    described = given.get("description")
    text = given["schema"]
    schema = json.loads(text) if isinstance(text, str) else dict(text)
    return {"schema": schema, **({} if described is None else {"description": described})}


async def _claim(
    bench: ResolveDependencies, queue: QueueRecord, spec: Json, values: Any, entity: str
) -> Claim:
    """The claim that an agent would get; the job's layer as the control plane lays it."""
    places = {"entity": spec.get("entity") or entity, "project": spec.get("project") or "default"}
    resolve_values(queue.template_variables, values)
    composed = compose(queue, spec, values, places)
    claim = _made(queue, composed, places)
    if composed.spec.job and bench.sources.jobs is not None:
        stored = await read_job(bench.sources.jobs, composed.spec.job, claim)
        claim = _made(queue, compose(queue, spec, values, places, stored.layer()), places)
    return claim


async def _check_inputs(console: Console, claim: Claim) -> None:
    """Hold the values against the job's schemas, as the control plane does."""
    if claim.spec.job is None:
        return
    named = parse_reference(claim.spec.job)
    version = await ArtifactVersions(console.client, Transfers()).version(named)
    said = json.loads(version.get("metadata") or "{}").get("input_schemas")
    schemas: Json = said if isinstance(said, dict) else {}
    check_inputs(schemas, claim.spec.overrides.model_dump())


def _made(queue: QueueRecord, composed: Composed, places: Json) -> Claim:
    return Claim(
        lease=Lease(OPEN, 1, 1),
        phase=Phase.LEASED,
        entity=str(places["entity"]),
        project=str(places["project"]),
        queue=queue.name,
        run_name=composed.spec.run_id or OPEN,
        name=composed.spec.name,
        author=composed.spec.author,
        priority=0,
        resource=composed.resource or CONTAINERS,
        spec=composed.spec,
        layers=composed.layers,
        allocation=Allocation(cpus=composed.demand.cpus, memory=composed.demand.memory, gpus=()),
        run_token=MASK,
        stop_requested=False,
        created_at=datetime.now(UTC),
    )


def _workbench(
    jobs: RemoteArtifacts,
    config: AgentConfig,
    threads: ThreadPoolExecutor,
    drafted: DraftedJob | None,
    making: JobRequest | None,
) -> ResolveDependencies:
    """The same sources as an agent of this user has, with the same caches.

    What would be sent is read where it lies.
    """
    cache = config.state_dir / "cache"
    limits = config.sources.code
    git = GitFetcher(
        config.sources.git, cache / "git", embedded=True, threads=threads, environment=os.environ
    )
    return ResolveDependencies(
        sources=Sources(
            git=git,
            artifact=(
                ArtifactFetcher(jobs, limits, cache / "code", threads)
                if making is None
                else LocalFolder(folder_of(making), threads)
            ),
            jobs=drafted or jobs,
        ),
        executor=threads,
    )


@asynccontextmanager
async def _lane(
    resource: str, config: AgentConfig, folder: Path, threads: ThreadPoolExecutor, console: Console
) -> AsyncIterator[Backend]:
    """A runner and a builder that are asked for previews only; no engine is called."""
    url = console.client.endpoint.url
    if resource == CONTAINERS:
        from agent.builders.docker import DockerBuilder
        from agent.docker.client import Engine
        from agent.runners.docker.runner import DockerRunner

        docker = config.runners.local_container
        async with DockerRunner("", docker, threads) as runner, Engine(docker.host) as engine:
            builder = DockerBuilder(
                config.builder.model_copy(update={"destination": None}),
                engine, folder, threads=threads, environment=os.environ,
            )  # fmt: skip
            yield Backend(runner, builder, _NoImages(), url)
    elif resource == PROCESSES:
        from agent.builders.virtualenv import VirtualenvBuilder
        from agent.runners.process.runner import ProcessRunner

        local = config.runners.local_process
        processes = ProcessRunner(folder / "processes", "", local, threads, os.environ)
        environments = VirtualenvBuilder(
            config.builder, folder, threads=threads, environment=os.environ
        )
        yield Backend(processes, environments, None, url)
    else:
        message = f"`{resource}` is run by a plugin, and cannot be shown here."
        raise InvalidInputError(message, hint=f"Shown are {CONTAINERS} and {PROCESSES}.")


class _NoImages:
    """Says that images are run here; nothing is pulled while something is only shown."""

    async def resolve(self, reference: str, log: LogSink) -> Image:
        """The reference as it was named."""
        del log
        return Image(reference, "", reused=True)
