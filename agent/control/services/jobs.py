"""Jobs: artifacts of type `job`, as pages, commands and submissions need them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.artifacts import find_version
from agent.control.services.context import Context
from agent.control.services.job_code import with_code
from agent.control.services.job_inputs import check_inputs
from agent.control.services.job_layer import job_layer, job_version
from agent.control.store import artifacts, collections, items
from agent.control.store.artifact_records import ArtifactRecord, JobRecord, JobVersion
from agent.control.store.tx import Tx
from agent.model.errors import ConflictError, InvalidInputError
from agent.model.job.reference import (
    JobReference,
    no_such_job,
    no_such_version,
    parse_reference,
)
from agent.model.spec import Json

JOB_TYPE: Final = "job"
#: Jobs and versions of one answer.
_MANY: Final = 1000


@dataclass(frozen=True, slots=True)
class ChosenJob:
    """The version that a submission named, whatever alias led to it."""

    artifact_id: str
    #: `entity/project/name:v<N>`.
    reference: str
    layer: Json
    input_schemas: Json

    def check(self, overrides: Json) -> None:
        """Hold a submission's inputs against the job's schemas.

        Raises:
            InvalidInputError: names path, value and rule.
        """
        check_inputs(self.input_schemas, overrides)


class Jobs:
    """Reading jobs; making them is `Uploads`', changing them is `Artifacts`'."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(
        self, principal: Principal, entity: str | None, project: str
    ) -> tuple[JobRecord, ...]:
        """Jobs of a project that have a version, the last changed first.

        Raises:
            NotFoundError: the entity.
        """

        def work(tx: Tx) -> tuple[JobRecord, ...]:
            place = self._context.existing(tx, principal, entity, Action.READ)
            found, _ = collections.page(tx, place, project, kind=JOB_TYPE, after=None, limit=_MANY)
            ids = [collection.id for _, collection in found]
            counts, newest = artifacts.version_counts(tx, ids), artifacts.newest_of(tx, ids)
            last = items.last_of_jobs(tx, ids)
            versions = [job_version(each) for each in newest.values()]
            records = [
                JobRecord(job.artifact.collection, counts[key], job, last.get(key))
                for job in with_code(tx, self._context, principal, versions)
                for key in [job.artifact.collection.id]
            ]
            ordered = sorted(records, key=lambda job: job.collection.updated_at, reverse=True)
            return tuple(ordered)

        return await self._context.database.read(work)

    async def versions(
        self, principal: Principal, entity: str | None, project: str, name: str
    ) -> tuple[JobVersion, ...]:
        """Versions of a job, newest first; at most 1,000.

        Raises:
            NotFoundError: the job, or the entity; near misses are offered.
        """

        def work(tx: Tx) -> tuple[JobVersion, ...]:
            place = self._context.existing(tx, principal, entity, Action.READ)
            collection = collections.by_name(tx, place, project, name)
            if collection is None or collection.type != JOB_TYPE:
                raise _no_such_job(tx, JobReference(place, project, name))
            rows, _ = artifacts.versions(tx, collection.id, before=None, limit=_MANY)
            versions = [job_version(row) for row in rows]
            return with_code(tx, self._context, principal, versions)

        return await self._context.database.read(work)

    async def get(self, principal: Principal, reference: str) -> JobVersion:
        """A version by `entity/project/name:alias`; leading parts and the alias may be missing.

        Raises:
            NotFoundError: the job or its version; near misses are offered.
            InvalidInputError: no reference.
        """

        def work(tx: Tx) -> JobVersion:
            wanted = parse_reference(reference, entity=principal.default_entity)
            found = job_version(_version(tx, self._context, principal, wanted))
            return with_code(tx, self._context, principal, [found])[0]

        return await self._context.database.read(work)


def choose_job(
    tx: Tx, context: Context, principal: Principal, submitted: Mapping[str, object], project: str
) -> ChosenJob | None:
    """The job that a submission names; `None` when it names none.

    Raises:
        NotFoundError: the job or its version; near misses are offered.
        InvalidInputError: no reference, a job that cannot be read, or a source beside it.
        ConflictError: the name belongs to an artifact of another type.
    """
    named = submitted.get("job")
    if not named:
        return None
    if submitted.get("source"):
        message = f"The submission names the job '{named}' and a source of its own."
        raise InvalidInputError(message, hint="Leave out one of `job` and `source`.")
    reference = parse_reference(str(named), entity=principal.default_entity, project=project)
    found = _version(tx, context, principal, reference)
    return ChosenJob(found.id, found.reference, job_layer(found), job_version(found).input_schemas)


def _version(
    tx: Tx, context: Context, principal: Principal, reference: JobReference
) -> ArtifactRecord:
    context.existing(tx, principal, reference.entity, Action.READ)
    place = (reference.entity, reference.project, reference.name)
    collection = collections.by_name(tx, *place)
    if collection is None:
        raise _no_such_job(tx, reference)
    if collection.type != JOB_TYPE:
        message = f"{reference.job} is an artifact of type `{collection.type}`, and no job."
        raise ConflictError(message, hint="`launch job list` shows the jobs of a project.")
    found = find_version(tx, collection.id, reference.alias)
    if found is None:
        versions, _ = artifacts.versions(tx, collection.id, before=None, limit=_MANY)
        numbers = [f"v{each.version}" for each in versions]
        aliases = collections.alias_names(tx, collection.id)
        known = numbers if reference.version is not None else [*aliases, *numbers]
        raise no_such_version(reference, known)
    return found


def _no_such_job(tx: Tx, reference: JobReference) -> Exception:
    return no_such_job(
        reference, collections.names(tx, reference.entity, reference.project, JOB_TYPE)
    )
