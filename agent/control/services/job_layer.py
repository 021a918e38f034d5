"""From a stored job to a layer of the launch spec, and to a few words for people. Pure."""

import json
from typing import Any

from agent.control.store.artifact_records import ArtifactRecord, JobVersion
from agent.model.errors import InvalidInputError
from agent.model.job.entry_point import script_of
from agent.model.job.job_file import (
    JobArtifactSource,
    JobFile,
    JobImageSource,
    JobRepoSource,
    JobSource,
    read_job_file,
)
from agent.model.spec import Json

_COMMIT_SHOWN = 12


def job_version(artifact: ArtifactRecord) -> JobVersion:
    """A version of a job as pages and commands show it; never raises."""
    try:
        job = _read(artifact)
    except InvalidInputError as error:
        return JobVersion(artifact, None, artifact.job_problem or error.message)
    return JobVersion(artifact, job.source_type, _summary(job.source))


def job_layer(artifact: ArtifactRecord) -> Json:
    """What a job says about its runs, in the words of the launch spec.

    Raises:
        InvalidInputError: its job file cannot be read.
    """
    job = _read(artifact)
    layer: Json = {"job": artifact.reference, "source": _source(job.source)}
    build = _build(job)
    if build:
        layer["build"] = build
    overrides = _overrides(job.source)
    if overrides:
        layer["overrides"] = overrides
    return layer


def _read(artifact: ArtifactRecord) -> JobFile:
    if artifact.job_problem is not None or artifact.job_file is None:
        message = f"The job {artifact.reference} cannot be read."
        problem = artifact.job_problem or "It has no `wandb-job.json`."
        raise InvalidInputError(f"{message} {problem}", hint="Create the job again.")
    return read_job_file(json.dumps(artifact.job_file)).job


def _source(source: JobSource) -> Json:
    match source:
        case JobRepoSource(git=git):
            said = {"submodules": git.submodules, "lfs": git.lfs}
            asked = {key: value for key, value in said.items() if value is not None}
            return {"type": "git", "url": git.remote, "ref": git.commit, **asked}
        case JobArtifactSource(artifact=artifact):
            return {"type": "artifact", "artifact": artifact}
        case JobImageSource(image=image):
            return {"type": "image", "image": image}


def _build(job: JobFile) -> Json:
    source = job.source
    if isinstance(source, JobImageSource):
        return {}
    found: dict[str, Any] = {
        "build_context": source.build_context,
        "dockerfile": source.dockerfile,
        "base_image": source.base_image,
        "python": job.runtime,
    }
    return {key: value for key, value in found.items() if value}


def _overrides(source: JobSource) -> Json:
    found: Json = {}
    if source.entrypoint and not _notebook(source):
        found["entry_point"] = list(source.entrypoint)
    if isinstance(source, JobImageSource) and source.args:
        found["args"] = list(source.args)
    return found


def _notebook(source: JobSource) -> bool:
    """Whether the entry point has to be converted first, so that its words are not final."""
    if isinstance(source, JobImageSource):
        return False
    return source.notebook or (script_of(source.entrypoint) or "").endswith(".ipynb")


def _summary(source: JobSource) -> str:
    match source:
        case JobRepoSource(git=git):
            return f"{git.remote} at {git.commit[:_COMMIT_SHOWN]}"
        case JobArtifactSource(artifact=artifact):
            return artifact
        case JobImageSource(image=image):
            return image
