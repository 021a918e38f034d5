"""A stored job: read, mended where clients are known to err, and laid under what was submitted."""

from dataclasses import dataclass, replace
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError, NotFoundError
from agent.model.job import frozen, job_file
from agent.model.job.job_file import ParsedJobFile
from agent.model.job.reference import JobReference, parse_reference
from agent.model.spec import ArtifactSource, GitSource, ImageSource, Json, Source
from agent.model.work import Claim
from agent.ports.artifact import Artifact, ArtifactPort

_LARGEST_JOB: Final = 16 * 1024**2
_LARGEST_PATCH: Final = 512 * 1024**2


@dataclass(frozen=True, slots=True)
class StoredJob:
    """One version of a job, whole."""

    #: By version number, whatever alias was asked for.
    reference: JobReference
    reading: ParsedJobFile
    #: Text of `requirements.frozen.txt`; empty when there is none.
    frozen: str = ""
    #: Uncommitted changes of its author.
    patch: bytes | None = None

    def fields(self) -> Json:
        """The job's layer: what it says about a launch, by the launch spec's own paths."""
        source = self.reading.job.source
        build = {
            "build_context": getattr(source, "build_context", None),
            "dockerfile": getattr(source, "dockerfile", None),
            "base_image": getattr(source, "base_image", None),
            "python": self.reading.job.runtime,
        }
        overrides = {
            "entry_point": list(getattr(source, "entrypoint", None) or ()),
            "args": list(getattr(source, "args", None) or ()),
        }
        return {
            "source": _source(self.reading).model_dump(exclude_none=True),
            "build": {key: value for key, value in build.items() if value},
            "overrides": {key: value for key, value in overrides.items() if value},
        }


async def read_job(artifacts: ArtifactPort, text: str, claim: Claim) -> StoredJob:
    """Read the job that a spec names.

    Raises:
        JobError: `SOURCE_NOT_FOUND` with near misses, `SOURCE_INVALID` naming what is wrong.
    """
    try:
        reference = parse_reference(text, entity=claim.entity, project=claim.project)
        found = await artifacts.find(reference)
        if found.type != "job":
            message = f"{found.reference} is an artifact of type '{found.type}', not a job."
            raise JobError(Cause.SOURCE_INVALID, message)
        content = await _content(artifacts, found, job_file.FILE_NAME, _LARGEST_JOB)
        reading = job_file.read_job_file(_text(content or b"", found))
    except NotFoundError as error:
        raise JobError(Cause.SOURCE_NOT_FOUND, error.message, hint=error.hint) from None
    except InvalidInputError as error:
        raise JobError(Cause.SOURCE_INVALID, error.message, hint=error.hint) from None
    listed = await _content(artifacts, found, frozen.FILE_NAME, _LARGEST_JOB)
    patch = await _content(artifacts, found, job_file.PATCH_NAME, _LARGEST_PATCH)
    return StoredJob(found.reference, reading, _text(listed or b"", found), patch or None)


def laid_under(claim: Claim, stored: StoredJob) -> Claim:
    """The claim with the job's own words where the submission has none.

    The source is the job's: our control plane has put the same there already, others leave it
    out, and neither takes a job and a source of the submitter's together.
    """
    spec, said = claim.spec, stored.fields()
    given = {key: value for key, value in spec.build.model_dump().items() if value is not None}
    asked = spec.overrides
    overrides = asked.model_copy(
        update={
            "entry_point": asked.entry_point or said["overrides"].get("entry_point", []),
            "args": asked.args or said["overrides"].get("args", []),
        }
    )
    merged = spec.model_copy(
        update={
            "job": str(stored.reference),
            "source": _source(stored.reading),
            "build": spec.build.model_copy(update={**said["build"], **given}),
            "overrides": overrides,
        }
    )
    return replace(claim, spec=merged, layers={**claim.layers, "job": said})


def _source(reading: ParsedJobFile) -> Source:
    match reading.job.source:
        case job_file.JobRepoSource(git=git):
            # W&B's agent always fetches submodules; a job may say that it needs none.
            wants = git.submodules is not False
            return GitSource(url=git.remote, ref=git.commit, submodules=wants, lfs=git.lfs is True)
        case job_file.JobArtifactSource(artifact=artifact):
            return ArtifactSource(artifact=artifact)
        case job_file.JobImageSource(image=image):
            return ImageSource(image=image)


async def _content(
    artifacts: ArtifactPort, found: Artifact, name: str, largest: int
) -> bytes | None:
    """A small file of the artifact; `None` when it has none of that name."""
    entry = found.entries.get(name)
    if entry is None:
        return None
    if entry.size > largest:
        message = f"'{name}' of {found.reference} has {entry.size} bytes, more than {largest}."
        raise JobError(Cause.SOURCE_INVALID, message, hint="Create the job again.")
    return b"".join([piece async for piece in artifacts.read(found, name)])


def _text(content: bytes, found: Artifact) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        message = f"A file of the job {found.reference} is not UTF-8 text."
        raise JobError(Cause.SOURCE_INVALID, message, hint="Create the job again.") from None
