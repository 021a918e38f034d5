"""Claim → Resolved: the source pinned, the command known, the arguments allowed."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, PolicyError
from agent.model.job.entry_point import check_words
from agent.model.spec import (
    ArtifactSource,
    GitSource,
    ImageSource,
    Json,
    LaunchSpec,
    Source,
)
from agent.model.work import Claim, Resolved, SourceTree
from agent.pipeline.code_mount import mount_code
from agent.pipeline.dependencies import Backend, ResolveDependencies
from agent.pipeline.job_variables import (
    MOUNTS,
    SECRETS,
    environment_of,
    given_to_queue,
    named_by_queue,
)
from agent.pipeline.source_tree import Layout, PreparedTree, layout_of, prepare_tree
from agent.pipeline.stored_job import StoredJob, merge_job, read_job
from agent.ports.log import LogSink, write_line
from agent.ports.source import SourcePort

#: Resource arguments that the pipeline reads, not the runner.
_PIPELINE_ARGUMENTS: Final = frozenset({SECRETS, MOUNTS, "builder"})

#: `${name}` in resource arguments, from an explicit list: never the agent's environment.
_MACRO: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


async def resolve(
    claim: Claim, backend: Backend, dependencies: ResolveDependencies, folder: Path, log: LogSink
) -> Resolved:
    """Pin and fetch the source, find the command, check the arguments.

    `folder` is the attempt's own and exists.

    Raises:
        PolicyError: the administrator's rules, or the description itself, forbid it.
        JobError: `SOURCE_*`, `START_ENTRYPOINT`.
    """
    stored = None
    if claim.spec.job:
        stored = await _stored(claim, dependencies, log)
        claim = merge_job(claim, stored)
    command = checked_command(claim.spec)
    # Refused before anything is fetched.
    for kind, offered in ((SECRETS, dependencies.secrets), (MOUNTS, dependencies.mounts)):
        if offered is None:
            named_by_queue(claim, kind)
        else:
            given_to_queue(claim, kind, offered)
    backend.runner.check(arguments_of(claim), template_of(claim))
    if claim.spec.additional_services and not backend.takes_manifest:
        message = f"`additional_services` run on a cluster, and this job is for {claim.resource}."
        raise PolicyError(Cause.POLICY_RESOURCE, message, hint="Use a queue for Kubernetes.")
    source = claim.spec.effective_source()
    if isinstance(source, ImageSource):
        return _ready_image(claim, backend, source.image, command)
    tree = await _fetched(claim, source, dependencies, folder, log)
    prepared = await prepare_tree(tree.root, claim.spec, stored, dependencies, log)
    containers = backend.images is not None
    layout = await dependencies.run_blocking(
        layout_of, tree.root, claim.spec, containers=containers, command=prepared.command
    )
    resolved = _from_source(claim, backend, tree, layout, prepared)
    patched = stored is not None and stored.patch is not None
    if patched or prepared.command != tuple(claim.spec.overrides.entry_point):
        return resolved  # the files are no longer those of the source
    return await mount_code(resolved, backend, log)


async def _stored(claim: Claim, dependencies: ResolveDependencies, log: LogSink) -> StoredJob:
    if dependencies.sources.jobs is None:
        message = f"This agent cannot read stored jobs, and the spec names {claim.spec.job}."
        raise PolicyError(Cause.POLICY_SPEC, message)
    jobs = dependencies.sources.jobs
    stored = await dependencies.answered(
        lambda: read_job(jobs, str(claim.spec.job), claim), "stored job"
    )
    await write_line(log, f"job {stored.reference}")
    for repair in stored.reading.repairs:
        await write_line(log, f"job {stored.reference}: {repair}")
    return stored


async def _fetched(
    claim: Claim,
    source: Source | None,
    dependencies: ResolveDependencies,
    folder: Path,
    log: LogSink,
) -> SourceTree:
    sources, entity, into = dependencies.sources, claim.entity, folder / "source"
    match source:
        case GitSource():
            await write_line(log, f"fetching {source.url} at {source.ref or 'its default branch'}")
            await dependencies.run_blocking(into.mkdir, mode=0o700, parents=True)
            return await sources.git.fetch(source, entity, into, log)
        case ArtifactSource():
            if sources.artifact is None:
                message = "This agent cannot read artifacts, and the job's code is one."
                raise PolicyError(Cause.POLICY_SPEC, message)
            return await _fetched_artifact(sources.artifact, source, claim, dependencies, into, log)
        case _:
            message = "The spec names no source: no code, repository or image."
            raise PolicyError(Cause.POLICY_SPEC, message)


async def _fetched_artifact(
    artifacts: SourcePort[ArtifactSource],
    source: ArtifactSource,
    claim: Claim,
    dependencies: ResolveDependencies,
    into: Path,
    log: LogSink,
) -> SourceTree:
    """The artifact's files, fetched again from the beginning where the control plane was away.

    Files that have arrived whole are in the cache by then.
    """

    async def fetch() -> SourceTree:
        await dependencies.run_blocking(shutil.rmtree, into, ignore_errors=True)
        await dependencies.run_blocking(into.mkdir, mode=0o700, parents=True)
        return await artifacts.fetch(source, claim.entity, into, log)

    return await dependencies.answered(fetch, "code of the job")


def arguments_of(claim: Claim, image: str | None = None) -> Json:
    """The runner's own arguments, macros expanded."""
    given = claim.spec.args_for(claim.resource)
    kept = {key: value for key, value in given.items() if key not in _PIPELINE_ARGUMENTS}
    expanded: Json = expand(kept, macros_of(claim, image))
    return expanded


def services_of(claim: Claim, image: str | None = None) -> tuple[Json, ...]:
    """The manifests of the side services, macros expanded."""
    macros = macros_of(claim, image)
    return tuple(expand(each.config, macros) for each in claim.spec.additional_services)


def template_of(claim: Claim, image: str | None = None) -> Json:
    """What the queue's template sets of the arguments, macros expanded."""
    template: Any = (claim.layers.get("queue") or {}).get("resource_args") or {}
    expanded: Json = expand(template.get(claim.resource) or {}, macros_of(claim, image))
    return expanded


def macros_of(claim: Claim, image: str | None) -> dict[str, str]:
    """Values by the names of all macros, which are W&B's: its run id is the name of our run."""
    macros = {
        "project_name": claim.project,
        "entity_name": claim.entity,
        "run_id": claim.run_name,
        "run_name": claim.name or "",
        "author": claim.author or "",
    }
    return macros if image is None else macros | {"image_uri": image}


def expand(value: Any, macros: Mapping[str, str]) -> Any:
    """Replace macros in every string below `value`; keys and unknown names stay."""
    if isinstance(value, str):
        return _MACRO.sub(lambda match: macros.get(match[1], match[0]), value)
    if isinstance(value, list):
        return [expand(one, macros) for one in value]
    if isinstance(value, dict):
        return {key: expand(one, macros) for key, one in value.items()}
    return value


def checked_command(spec: LaunchSpec) -> tuple[str, ...]:
    """The entry point, word by word; empty means the image's own.

    Raises:
        PolicyError: `POLICY_SPEC`: a word that no program can be started with.
    """
    command = tuple(spec.overrides.entry_point)
    if command and not command[0].strip():
        raise PolicyError(Cause.POLICY_SPEC, "The entry point's first word is empty.")
    for word in (*command, *spec.overrides.args):
        if "\0" in word:
            message = f"The command contains a NUL byte in {word!r}."
            raise PolicyError(Cause.POLICY_SPEC, message)
    if not isinstance(spec.effective_source(), ImageSource):
        try:
            own_image = spec.build.dockerfile or spec.build.base_image or spec.overrides.dockerfile
            check_words(command, own_image=bool(own_image))
        except InvalidInputError as error:
            raise PolicyError(Cause.POLICY_SPEC, error.message, hint=error.hint) from None
    return command


def _ready_image(claim: Claim, backend: Backend, image: str, command: tuple[str, ...]) -> Resolved:
    if backend.images is None:
        message = f"{claim.resource} runs no container images, and the job names the image {image}."
        hint = "Put it on a queue whose resource is local-container."
        raise PolicyError(Cause.POLICY_SPEC, message, hint=hint)
    return Resolved(
        claim=claim,
        tree=None,
        image=image,
        command=command,
        args=tuple(claim.spec.overrides.args),
        build_context=".",
        dockerfile=None,
        base_image=None,
        python=None,
        environment=environment_of(claim, backend.job_url, image, page_url=backend.page_url),
        facts={"source": image} | ({"job": claim.spec.job} if claim.spec.job else {}),
    )


def _from_source(
    claim: Claim, backend: Backend, tree: SourceTree, layout: Layout, prepared: PreparedTree
) -> Resolved:
    if not layout.command and layout.dockerfile is None:
        message = "The job has neither an entry point nor a Dockerfile."
        raise PolicyError(Cause.POLICY_SPEC, message, hint="Submit with --entry-point.")
    facts = {"source": tree.identity}
    if tree.commit:
        facts["commit"] = tree.commit
    if claim.spec.job:
        facts["job"] = claim.spec.job
    base = base_image_of(claim)
    return Resolved(
        claim=claim,
        tree=tree,
        image=None,
        command=layout.command,
        args=tuple(claim.spec.overrides.args),
        build_context=layout.context,
        dockerfile=layout.dockerfile,
        base_image=base.image,
        accelerated=base.accelerated,
        python=prepared.python,
        environment=environment_of(claim, backend.job_url, None, page_url=backend.page_url),
        facts=facts,
    )


@dataclass(frozen=True, slots=True)
class BaseImage:
    """The base of a generated image, where a layer names one."""

    image: str | None
    #: An accelerator's image, which may have no Python.
    accelerated: bool = False
    #: Path of the field that decided, in the launch spec.
    origin: str = ""


def base_image_of(claim: Claim) -> BaseImage:
    """The job's or submitter's, else W&B's `resource_args.<resource>.builder`."""
    if claim.spec.build.base_image:
        return BaseImage(claim.spec.build.base_image, origin="build.base_image")
    builder: Any = claim.spec.args_for(claim.resource).get("builder")
    if not isinstance(builder, dict):
        return BaseImage(None)
    where = f"resource_args.{claim.resource}.builder"
    base = builder.get("base_image")
    if isinstance(base, str) and base:
        return BaseImage(base, origin=f"{where}.base_image")
    for key in ("accelerator", "cuda"):
        nested = builder.get(key)
        if isinstance(nested, dict) and isinstance(nested.get("base_image"), str):
            return BaseImage(
                nested["base_image"], accelerated=True, origin=f"{where}.{key}.base_image"
            )
    return BaseImage(None)
