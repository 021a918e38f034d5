"""The code artifacts that jobs refer to: found by id or name, and called by name and version."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.control.auth.policy import Action, Principal
from agent.control.services.artifacts import find_version
from agent.control.services.context import Context
from agent.control.store import artifacts, collections
from agent.control.store.artifact_records import ArtifactRecord, ArtifactState, JobVersion
from agent.control.store.tx import Tx
from agent.model.errors import InvalidInputError
from agent.model.job.reference import CodeReference, parse_code_reference


def with_code(
    tx: Tx, context: Context, principal: Principal, jobs: Sequence[JobVersion]
) -> tuple[JobVersion, ...]:
    """The same versions; those of code know their artifact, and are summed up by its name.

    Jobs store an id, which tells people nothing. One that the caller may not read, or that never
    was here, stays an id.
    """
    wanted = [_reference(job) for job in jobs]
    ids = {each.id for each in wanted if each is not None and each.id is not None}
    found = {each.id: each for each in artifacts.by_ids(tx, ids)} if ids else {}
    named = (None if each is None else _found(tx, each, found) for each in wanted)
    return tuple(
        _named(job, code)
        if code is not None
        and context.policy.allows(principal, code.collection.entity, Action.READ)
        else job
        for job, code in zip(jobs, named, strict=True)
    )


def _reference(job: JobVersion) -> CodeReference | None:
    if job.source_type != "artifact":
        return None
    source = (job.artifact.job_file or {}).get("source") or {}
    try:
        return parse_code_reference(str(source.get("artifact")))
    except InvalidInputError:
        return None


def _found(
    tx: Tx, wanted: CodeReference, by_id: Mapping[str, ArtifactRecord]
) -> ArtifactRecord | None:
    if wanted.name is None:
        return by_id.get(str(wanted.id))
    place = (wanted.name.entity, wanted.name.project, wanted.name.name)
    collection = collections.by_name(tx, *place)
    return None if collection is None else find_version(tx, collection.id, wanted.name.alias)


def _named(job: JobVersion, code: ArtifactRecord) -> JobVersion:
    here, there = job.artifact.collection, code.collection
    beside = (here.entity, here.project) == (there.entity, there.project)
    name = f"{there.name}:v{code.version}" if beside else code.reference
    gone = " (deleted)" if code.state is ArtifactState.DELETED else ""
    return replace(job, code=code, summary=f"{name}{gone}")
