"""Jobs: artifacts of type `job`, as pages, commands and submissions need them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.artifacts import find_version, visible
from agent.control.services.context import Service, ServiceContext, read
from agent.control.store import artifacts, collections, item_lists
from agent.control.store.artifacts import ArtifactRecord, ArtifactState
from agent.control.store.collections import CollectionRecord
from agent.control.store.items import ItemRecord
from agent.control.store.tx import Tx
from agent.model.errors import ConflictError, InvalidInputError
from agent.model.job.job_file import (
    JobArtifactSource,
    JobFile,
    JobImageSource,
    JobRepoSource,
    JobSource,
    launch_layer,
    read_job_file,
)
from agent.model.job.names import (
    JOB_TYPE,
    CodeReference,
    JobReference,
    no_such_job,
    no_such_version,
    parse_code_reference,
    parse_reference,
)
from agent.model.spec import Json

#: Jobs of a project, and versions of a job, that are listed at most.
_LIMIT: Final = 1000
_COMMIT_LENGTH: Final = 12


@dataclass(frozen=True, slots=True)
class JobVersion:
    """One version of a job."""

    artifact: ArtifactRecord
    #: `repo`, `artifact` or `image`; `None` when the job file cannot be read.
    source_type: str | None
    #: Short description of the source for users, or why the job file cannot be read.
    summary: str
    #: The artifact with a code job's files; `None` for other jobs, and where it is hidden.
    code: ArtifactRecord | None = None

    @property
    def reference(self) -> str:
        """`entity/project/name:v<N>`."""
        return self.artifact.reference

    @property
    def input_schemas(self) -> Json:
        """JSON schemas by `@wandb.config` and `files`."""
        schemas = self.artifact.metadata.get("input_schemas")
        return schemas if isinstance(schemas, dict) else {}


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job with its newest version."""

    collection: CollectionRecord
    version_count: int
    latest: JobVersion | None
    #: The item submitted last with any version, of those that the caller may read.
    last_item: ItemRecord | None


@dataclass(frozen=True, slots=True)
class ChosenJob:
    """The version that a submission's `job` refers to, whatever alias it names."""

    #: `entity/project/name`.
    name: str
    #: What the job contributes to the launch spec.
    layer: Json
    input_schemas: Json


class Jobs(Service):
    """Reading jobs; `ArtifactUploads` makes them, `Artifacts` changes them."""

    @read
    def list(
        self, tx: Tx, principal: Principal, entity: str | None, project: str
    ) -> tuple[JobRecord, ...]:
        """Jobs of a project that have a version, the last changed first."""
        entity = self._context.existing_entity(tx, principal, entity, Action.READ)
        found, _ = collections.page(tx, entity, project, kind=JOB_TYPE, after=None, limit=_LIMIT)
        ids = [collection.id for _, collection in found]
        counts = artifacts.version_counts(tx, ids)
        readable = self._context.policy.readable_entities(principal)
        last_items = item_lists.last_of_jobs(tx, ids, readable)
        newest = self._versions(tx, principal, [*artifacts.newest_of(tx, ids).values()])
        records = []
        for version in newest:
            job = version.artifact.collection
            records.append(JobRecord(job, counts[job.id], version, last_items.get(job.id)))
        return tuple(sorted(records, key=lambda job: job.collection.updated_at, reverse=True))

    @read
    def versions(
        self, tx: Tx, principal: Principal, entity: str | None, project: str, name: str
    ) -> tuple[JobVersion, ...]:
        """Versions of a job, newest first; at most 1,000.

        Raises:
            NotFoundError: the job, or the entity; the hint has similar names.
        """
        entity = self._context.existing_entity(tx, principal, entity, Action.READ)
        collection = collections.by_name(tx, entity, project, name)
        if collection is None or collection.type != JOB_TYPE:
            known = collections.names(tx, entity, project, JOB_TYPE)
            raise no_such_job(JobReference(entity, project, name), known)
        found, _ = artifacts.versions(tx, collection.id, before=None, limit=_LIMIT)
        return self._versions(tx, principal, found)

    @read
    def get(self, tx: Tx, principal: Principal, reference: str) -> JobVersion:
        """A version by `entity/project/name:alias`; leading parts and the alias may be missing.

        Raises:
            NotFoundError: the job or its version; the hint has similar names.
            InvalidInputError: not a reference.
        """
        wanted = parse_reference(reference, entity=principal.default_entity)
        found = _find(tx, self._context, principal, wanted)
        return self._versions(tx, principal, [found])[0]

    @read
    def item_count(self, tx: Tx, principal: Principal, job: CollectionRecord) -> int:
        """Number of the items submitted with any version of a job that the caller may read."""
        self._context.policy.require(principal, job.entity, Action.READ)
        entities = self._context.policy.readable_entities(principal)
        return item_lists.count_of_job(tx, job.path, entities)

    def _versions(
        self, tx: Tx, principal: Principal, found: Sequence[ArtifactRecord]
    ) -> tuple[JobVersion, ...]:
        """Versions of jobs, with the code artifacts of code jobs, whose name is their summary.

        Job files hold the code artifact's id, which means nothing to users. It stays an id
        where the caller may not read the artifact, or where it does not exist on this server.
        """
        versions = [_job_version(artifact) for artifact in found]
        references = [_code_reference(version) for version in versions]
        ids = {each.id for each in references if each is not None and each.id is not None}
        by_id = {each.id: each for each in artifacts.by_ids(tx, ids)} if ids else {}
        with_code = []
        for version, reference in zip(versions, references, strict=True):
            code = None if reference is None else _code(tx, reference, by_id)
            code = visible(self._context, principal, code)
            with_code.append(version if code is None else _with_code(version, code))
        return tuple(with_code)


def choose_job(
    tx: Tx,
    context: ServiceContext,
    principal: Principal,
    submitted: Mapping[str, object],
    project: str,
) -> ChosenJob | None:
    """The job version that a submission refers to; `None` when it refers to none.

    Raises:
        NotFoundError: the job or its version; the hint has similar names.
        InvalidInputError: not a reference, a job file that cannot be read, or a source as well.
        ConflictError: the name belongs to an artifact of another type.
    """
    named = submitted.get("job")
    if not named:
        return None
    if submitted.get("source"):
        message = f"The submission names the job '{named}' and a source of its own."
        raise InvalidInputError(message, hint="Leave out one of `job` and `source`.")
    reference = parse_reference(str(named), entity=principal.default_entity, project=project)
    found = _find(tx, context, principal, reference)
    layer = launch_layer(_read_job_file(found), found.reference)
    return ChosenJob(found.collection.path, layer, _job_version(found).input_schemas)


def _find(
    tx: Tx, context: ServiceContext, principal: Principal, reference: JobReference
) -> ArtifactRecord:
    context.existing_entity(tx, principal, reference.entity, Action.READ)
    collection = collections.by_name(tx, reference.entity, reference.project, reference.name)
    if collection is None:
        known = collections.names(tx, reference.entity, reference.project, JOB_TYPE)
        raise no_such_job(reference, known)
    if collection.type != JOB_TYPE:
        message = f"{reference.job} is an artifact of type `{collection.type}`, not a job."
        raise ConflictError(
            message,
            hint=f"`launch job list -p {reference.project} -e {reference.entity}` shows the jobs.",
        )
    found = find_version(tx, collection.id, reference.alias)
    if found is None:
        versions, _ = artifacts.versions(tx, collection.id, before=None, limit=_LIMIT)
        numbers = [f"v{each.version}" for each in versions]
        aliases = collections.alias_names(tx, collection.id)
        known = numbers if reference.version is not None else [*aliases, *numbers]
        raise no_such_version(reference, known)
    return found


def _job_version(artifact: ArtifactRecord) -> JobVersion:
    """A version with its source's summary, or with the reason why its file cannot be read."""
    try:
        job = _read_job_file(artifact)
    except InvalidInputError as error:
        return JobVersion(artifact, None, artifact.job_problem or error.message)
    return JobVersion(artifact, job.source_type, _summary(job.source))


def _read_job_file(artifact: ArtifactRecord) -> JobFile:
    if artifact.job_problem is not None or artifact.job_file is None:
        message = f"The job {artifact.reference} cannot be read."
        problem = artifact.job_problem or "It has no `wandb-job.json`."
        raise InvalidInputError(f"{message} {problem}", hint="Create the job again.")
    return read_job_file(json.dumps(artifact.job_file)).job


def _summary(source: JobSource) -> str:
    match source:
        case JobRepoSource(git=git):
            return f"{git.remote} at {git.commit[:_COMMIT_LENGTH]}"
        case JobArtifactSource(artifact=artifact):
            return artifact
        case JobImageSource(image=image):
            return image


def _code_reference(version: JobVersion) -> CodeReference | None:
    if version.source_type != "artifact":
        return None
    source = (version.artifact.job_file or {}).get("source") or {}
    try:
        return parse_code_reference(str(source.get("artifact")))
    except InvalidInputError:
        return None


def _code(
    tx: Tx, reference: CodeReference, by_id: Mapping[str, ArtifactRecord]
) -> ArtifactRecord | None:
    named = reference.name
    if named is None:
        return by_id.get(str(reference.id))
    collection = collections.by_name(tx, named.entity, named.project, named.name)
    return None if collection is None else find_version(tx, collection.id, named.alias)


def _with_code(version: JobVersion, code: ArtifactRecord) -> JobVersion:
    job = version.artifact.collection
    same_project = (job.entity, job.project) == (code.collection.entity, code.collection.project)
    name = f"{code.collection.name}:v{code.version}" if same_project else code.reference
    deleted = " (deleted)" if code.state is ArtifactState.DELETED else ""
    return replace(version, code=code, summary=f"{name}{deleted}")
