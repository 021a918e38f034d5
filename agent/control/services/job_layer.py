"""From a stored job to a layer of the launch spec, and to a few words for people. Pure."""

import json

from agent.control.store.artifact_records import ArtifactRecord, JobVersion
from agent.model.errors import InvalidInputError
from agent.model.job.job_file import (
    JobArtifactSource,
    JobFile,
    JobImageSource,
    JobRepoSource,
    JobSource,
    read_job_file,
)
from agent.model.job.launch_layer import launch_layer
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
    return launch_layer(_read(artifact), artifact.reference)


def _read(artifact: ArtifactRecord) -> JobFile:
    if artifact.job_problem is not None or artifact.job_file is None:
        message = f"The job {artifact.reference} cannot be read."
        problem = artifact.job_problem or "It has no `wandb-job.json`."
        raise InvalidInputError(f"{message} {problem}", hint="Create the job again.")
    return read_job_file(json.dumps(artifact.job_file)).job


def _summary(source: JobSource) -> str:
    match source:
        case JobRepoSource(git=git):
            return f"{git.remote} at {git.commit[:_COMMIT_SHOWN]}"
        case JobArtifactSource(artifact=artifact):
            return artifact
        case JobImageSource(image=image):
            return image
