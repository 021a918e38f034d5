"""Stored jobs: read from their artifact, and merged under the submitted launch spec."""

from dataclasses import dataclass, replace
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError, NotFoundError
from agent.model.job import job_file
from agent.model.job.job_file import ParsedJobFile, launch_layer
from agent.model.job.names import JobReference, parse_reference
from agent.model.job.requirements import FROZEN_NAME
from agent.model.spec import parse_spec
from agent.model.work import Claim
from agent.ports.artifact import Artifact, ArtifactPort

_MAX_JOB_FILE_BYTES: Final = 16 * 1024**2
_MAX_PATCH_BYTES: Final = 512 * 1024**2


@dataclass(frozen=True, slots=True)
class StoredJob:
    """One version of a job, whole."""

    #: By version number, whatever alias was named.
    reference: JobReference
    reading: ParsedJobFile
    #: Text of `requirements.frozen.txt`; empty when there is none.
    frozen: str = ""
    #: Uncommitted changes of its author.
    patch: bytes | None = None


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
        content = await _content(artifacts, found, job_file.FILE_NAME, _MAX_JOB_FILE_BYTES)
        reading = job_file.read_job_file(_text(content or b"", found))
    except NotFoundError as error:
        raise JobError(Cause.SOURCE_NOT_FOUND, error.message, hint=error.hint) from None
    except InvalidInputError as error:
        raise JobError(Cause.SOURCE_INVALID, error.message, hint=error.hint) from None
    listed = await _content(artifacts, found, FROZEN_NAME, _MAX_JOB_FILE_BYTES)
    patch = await _content(artifacts, found, job_file.PATCH_NAME, _MAX_PATCH_BYTES)
    return StoredJob(found.reference, reading, _text(listed or b"", found), patch or None)


def merge_job(claim: Claim, stored: StoredJob) -> Claim:
    """The claim with the job's values where the submission has none.

    The source is the job's: our control plane has put it there already, others leave it out,
    and none accepts a job and another source together.
    """
    spec, layer = claim.spec, launch_layer(stored.reading.job, str(stored.reference))
    source = stored.reading.job.source
    given = {key: value for key, value in spec.build.model_dump().items() if value is not None}
    asked = spec.overrides
    if source.entrypoint:
        # `launch_layer` leaves out a notebook's entry point, since only this agent runs notebooks.
        own = {**layer.get("overrides", {}), "entry_point": list(source.entrypoint)}
        layer = {**layer, "overrides": own}
    words = layer.get("overrides", {})
    overrides = asked.model_copy(
        update={
            "entry_point": asked.entry_point or words.get("entry_point", []),
            "args": asked.args or words.get("args", []),
        }
    )
    merged = spec.model_copy(
        update={
            "job": layer["job"],
            "source": parse_spec(layer).source,
            "build": spec.build.model_copy(update={**layer.get("build", {}), **given}),
            "overrides": overrides,
        }
    )
    return replace(claim, spec=merged, layers={**claim.layers, "job": layer})


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
