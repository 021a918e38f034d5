"""Artifacts: versions of named collections, looked up and changed; see also `artifact_uploads`."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from agent.control.auth.policy import Action, Principal
from agent.control.services.context import Service, ServiceContext, read, write
from agent.control.services.paging import Page, cursor, numbered_page, page_of, page_size
from agent.control.services.runs import check_project, check_run, readable_project
from agent.control.store import artifact_files, artifacts, collections, runs
from agent.control.store.artifact_files import EntryRecord, ManifestRecord
from agent.control.store.artifacts import ArtifactRecord, ArtifactState
from agent.control.store.collections import CollectionRecord
from agent.control.store.runs import RunRecord
from agent.control.store.tables import to_datetime
from agent.control.store.tx import Tx
from agent.model.errors import ConflictError, NotFoundError, PermissionDeniedError
from agent.model.job.names import JOB_TYPE, LATEST, checked_alias, free_aliases, version_of
from agent.model.spec import Json


@dataclass(frozen=True, slots=True)
class ArtifactChange:
    """W&B's `updateArtifact`; `None` leaves a field as it is."""

    description: str | None = None
    metadata: Json | None = None
    ttl_seconds: int | None = None
    tags_to_add: tuple[str, ...] = ()
    tags_to_delete: tuple[str, ...] = ()
    #: All free aliases that it is to have.
    aliases: tuple[str, ...] | None = None


class Artifacts(Service):
    """Reading takes the right to read the project, changing that to write runs there.

    A run token reads also the inputs that its launch spec names, changes only what its run has
    made, and moves no alias of a job, since others launch what it refers to.
    """

    @read
    def get(self, tx: Tx, principal: Principal, artifact_id: str) -> ArtifactRecord | None:
        """An artifact by id; `None` when it is absent or hidden."""
        return visible(self._context, principal, artifacts.by_id(tx, artifact_id))

    @read
    def by_name(
        self, tx: Tx, principal: Principal, entity: str | None, project: str, name: str
    ) -> ArtifactRecord | None:
        """A version by `collection:alias` or `collection:v<N>`; `None` when there is none.

        The alias is `latest` where it is missing.
        """
        name, _, alias = name.partition(":")
        collection = collections.by_name(tx, entity or principal.default_entity, project, name)
        found = None if collection is None else find_version(tx, collection.id, alias or LATEST)
        return visible(self._context, principal, found)

    @read
    def by_alias(
        self, tx: Tx, principal: Principal, collection: CollectionRecord, alias: str
    ) -> ArtifactRecord | None:
        """A version of a collection by alias or `v<N>`."""
        return visible(self._context, principal, find_version(tx, collection.id, alias))

    @read
    def newest(
        self, tx: Tx, principal: Principal, collection: CollectionRecord
    ) -> ArtifactRecord | None:
        """The committed version with the highest number; `None` while there is none."""
        return visible(self._context, principal, artifacts.newest(tx, collection.id))

    @read
    def collection(
        self, tx: Tx, principal: Principal, entity: str | None, project: str, name: str
    ) -> CollectionRecord | None:
        """A collection; `None` when it is absent or hidden."""
        entity = entity or principal.default_entity
        if not self._context.policy.reads_artifact(principal, entity, project, name):
            return None
        return collections.by_name(tx, entity, project, name)

    @read
    def collection_by_id(
        self, tx: Tx, principal: Principal, collection_id: str
    ) -> CollectionRecord | None:
        """A collection by id; `None` when it is absent or hidden."""
        found = collections.by_id(tx, collection_id)
        return found if found is not None and _reads(self._context, principal, found) else None

    @read
    def collections(
        self,
        tx: Tx,
        principal: Principal,
        entity: str | None,
        project: str,
        *,
        kind: str | None = None,
        after: str | None = None,
        first: int = 100,
    ) -> Page[CollectionRecord]:
        """Collections of a project in order of creation; `kind` is their type."""
        size, after_seq = page_size(first), cursor(after)
        entity = readable_project(tx, self._context, principal, entity, project)
        found, total = collections.page(
            tx, entity, project, kind=kind, after=after_seq, limit=size + 1
        )
        return numbered_page(found, size, total)

    @read
    def types(
        self, tx: Tx, principal: Principal, entity: str | None, project: str
    ) -> tuple[tuple[str, datetime], ...]:
        """Types in use in a project, and when each was first used."""
        entity = readable_project(tx, self._context, principal, entity, project)
        found = collections.types(tx, entity, project)
        return tuple((name, to_datetime(first)) for name, first in found)

    @read
    def versions(
        self,
        tx: Tx,
        principal: Principal,
        collection: CollectionRecord,
        *,
        after: str | None = None,
        first: int = 100,
    ) -> Page[ArtifactRecord]:
        """Committed versions, newest first."""
        _require_readable(self._context, principal, collection)
        size, before = page_size(first), cursor(after)
        found, total = artifacts.versions(tx, collection.id, before=before, limit=size + 1)
        return page_of(found, size, total, lambda record: record.version)

    @read
    def entries(
        self,
        tx: Tx,
        principal: Principal,
        artifact: ArtifactRecord,
        *,
        names: Collection[str] | None = None,
        after: str | None = None,
        first: int = 100,
    ) -> Page[EntryRecord]:
        """Files of an artifact by path, references among them."""
        _require_readable(self._context, principal, artifact.collection)
        size = page_size(first)
        found, total = artifact_files.entries(
            tx, artifact.id, names=names, after=after or "", limit=size + 1
        )
        return page_of(found, size, total, lambda entry: entry.path)

    @read
    def manifest(
        self, tx: Tx, principal: Principal, artifact: ArtifactRecord
    ) -> ManifestRecord | None:
        """The manifest of an artifact; `None` before it is announced and after deletion."""
        _require_readable(self._context, principal, artifact.collection)
        return artifact_files.manifest_of(tx, artifact.id)

    @read
    def server_id(self, tx: Tx, principal: Principal, client_id: str) -> str | None:
        """The id of the artifact that a client made under an id of its own."""
        found = artifacts.by_client_id(tx, client_id)
        shown = (visible(self._context, principal, each) for each in found)
        return next((each.id for each in shown if each is not None), None)

    @read
    def has_content(
        self, tx: Tx, principal: Principal, collection: CollectionRecord, md5: str
    ) -> bool:
        """Whether a version of the collection has a file with that content."""
        _require_readable(self._context, principal, collection)
        return artifact_files.has_content(tx, collection.id, md5)

    @write
    def use(
        self,
        tx: Tx,
        principal: Principal,
        artifact_id: str,
        *,
        entity: str | None,
        project: str,
        run_name: str,
        used_as: str | None = None,
    ) -> ArtifactRecord:
        """Record that a run takes an artifact as input; idempotent.

        Raises:
            NotFoundError: the artifact, or the run's entity.
        """
        entity = self._context.existing_entity(tx, principal, entity, Action.WRITE_RUNS)
        check_run(principal, project, run_name)
        found = visible(self._context, principal, artifacts.by_id(tx, artifact_id))
        if found is None:
            raise no_such_artifact(artifact_id)
        run = {"entity": entity, "project": project, "run_name": run_name}
        artifact_files.insert_input(tx, {**run, "artifact_id": found.id, "used_as": used_as})
        return found

    @read
    def inputs_of(self, tx: Tx, principal: Principal, run: RunRecord) -> tuple[ArtifactRecord, ...]:
        """Artifacts that a run takes as input, as far as the caller may read them."""
        readable_project(tx, self._context, principal, run.entity, run.project)
        ids = artifact_files.input_ids(tx, run.entity, run.project, run.name)
        found = artifacts.by_ids(tx, ids)
        return tuple(each for each in found if visible(self._context, principal, each) is not None)

    @read
    def outputs_of(
        self, tx: Tx, principal: Principal, run: RunRecord
    ) -> tuple[ArtifactRecord, ...]:
        """Artifacts that a run made."""
        readable_project(tx, self._context, principal, run.entity, run.project)
        return tuple(artifacts.outputs_of(tx, run.entity, run.project, run.name))

    @read
    def users_of(
        self, tx: Tx, principal: Principal, artifact: ArtifactRecord
    ) -> tuple[RunRecord, ...]:
        """Runs that take an artifact as input, as far as the caller may read them."""
        reads = self._context.policy.reads_project
        found = [runs.by_name(tx, *run) for run in artifact_files.runs_using(tx, artifact.id)]
        return tuple(run for run in found if run and reads(principal, run.entity, run.project))

    @write
    def update(
        self, tx: Tx, principal: Principal, artifact_id: str, change: ArtifactChange
    ) -> ArtifactRecord:
        """Change what is not content.

        Raises:
            NotFoundError, PermissionDeniedError: the artifact.
            InvalidInputError: an alias.
        """
        found = writable(tx, self._context, principal, artifact_id)
        kept = [tag for tag in found.tags if tag not in change.tags_to_delete]
        values = {
            "description": change.description,
            "metadata": change.metadata,
            "ttl_seconds": change.ttl_seconds,
            "tags": list(dict.fromkeys([*kept, *change.tags_to_add])),
        }
        given: Json = {key: value for key, value in values.items() if value is not None}
        artifacts.change(tx, found.id, given)
        if change.aliases is not None:
            collections.lock(tx, found.collection.id)
            removed = set(found.aliases) - set(change.aliases)
            collections.delete_aliases(tx, found.id, removed)
            set_aliases(tx, found, change.aliases, principal)
        return artifacts.require(tx, found.id)

    @write
    def add_aliases(
        self, tx: Tx, principal: Principal, artifact_id: str, names: Sequence[str]
    ) -> None:
        """Let aliases refer to this version, whatever they referred to before.

        Raises: as `update`; ConflictError: it is not committed.
        """
        found = writable(tx, self._context, principal, artifact_id)
        if found.state is not ArtifactState.COMMITTED:
            message = f"The artifact '{found.collection.name}' is {found.state.lower()}."
            raise ConflictError(message, hint="Only a committed version can have aliases.")
        collections.lock(tx, found.collection.id)
        set_aliases(tx, found, names, principal)

    @write
    def delete_aliases(
        self, tx: Tx, principal: Principal, artifact_id: str, names: Sequence[str]
    ) -> None:
        """Remove aliases of a version; those that it does not have are ignored.

        Raises: as `update`.
        """
        found = writable(tx, self._context, principal, artifact_id)
        collections.delete_aliases(tx, found.id, names)

    @write
    def delete(
        self, tx: Tx, principal: Principal, artifact_id: str, *, with_aliases: bool = False
    ) -> ArtifactRecord:
        """Delete a version; its number is not used again, and `latest` moves to the newest left.

        Raises:
            ConflictError: it has aliases, and `with_aliases` is not set.
            NotFoundError, PermissionDeniedError: the artifact.
        """
        found = writable(tx, self._context, principal, artifact_id)
        collections.lock(tx, found.collection.id)
        if found.aliases and not with_aliases:
            names = ", ".join(f"`{alias}`" for alias in found.aliases)
            message = f"{found.reference} has the aliases {names}."
            raise ConflictError(message, hint="Delete it with its aliases, or move them first.")
        collections.delete_aliases(tx, found.id)
        artifact_files.delete_files(tx, found.id)
        artifacts.change(tx, found.id, {"state": ArtifactState.DELETED.value})
        newest = artifacts.newest(tx, found.collection.id)
        if newest is not None and LATEST in found.aliases:
            set_aliases(tx, newest, (LATEST,), principal)
        return artifacts.require(tx, found.id)


def visible(
    context: ServiceContext, principal: Principal, found: ArtifactRecord | None
) -> ArtifactRecord | None:
    """The artifact if the caller may read it, else `None`."""
    return found if found is not None and _reads(context, principal, found.collection) else None


def _reads(context: ServiceContext, principal: Principal, collection: CollectionRecord) -> bool:
    where = (collection.entity, collection.project, collection.name)
    return context.policy.reads_artifact(principal, *where)


def _require_readable(
    context: ServiceContext, principal: Principal, collection: CollectionRecord
) -> None:
    if not _reads(context, principal, collection):
        raise no_such_artifact(collection.id)


def writable(
    tx: Tx, context: ServiceContext, principal: Principal, artifact_id: str
) -> ArtifactRecord:
    """An artifact that the caller may change; for a run token, one that its run has made."""
    found = visible(context, principal, artifacts.by_id(tx, artifact_id))
    if found is None:
        raise no_such_artifact(artifact_id)
    context.policy.require(principal, found.collection.entity, Action.WRITE_RUNS)
    check_project(principal, found.collection.project)
    if principal.run is not None and found.run_name != principal.run.run_name:
        raise PermissionDeniedError(
            f"The token of {principal.name} changes only artifacts that this run has made.",
            hint="Use a user's key.",
        )
    return found


def no_such_artifact(artifact_id: str) -> NotFoundError:
    """The same error for an artifact that is absent and one that is hidden."""
    message = f"There is no artifact with the id '{artifact_id}', or this key may not read it."
    return NotFoundError(message)


def find_version(tx: Tx, collection_id: str, alias: str) -> ArtifactRecord | None:
    """A committed version by its number (`v3`) or by a free alias."""
    version = version_of(alias)
    if version is not None:
        return artifacts.by_version(tx, collection_id, version)
    return artifacts.by_alias(tx, collection_id, alias)


def checked_aliases(names: Iterable[str]) -> list[str]:
    """The free aliases among the names; clients also send `v<N>`.

    Raises:
        InvalidInputError: one cannot be an alias.
    """
    return [checked_alias(name) for name in free_aliases(names)]


def set_aliases(
    tx: Tx, artifact: ArtifactRecord, names: Iterable[str], principal: Principal
) -> None:
    """Let free aliases refer to a version; the collection is locked.

    Raises:
        InvalidInputError: one cannot be an alias.
        PermissionDeniedError: a run token, and an alias of another version of a job.
    """
    wanted = checked_aliases(names)
    if kept := held_by_others(tx, principal, artifact, wanted):
        quoted = ", ".join(f"`{alias}`" for alias in kept)
        raise PermissionDeniedError(
            f"The token of {principal.name} does not move {quoted}, which refers to another "
            f"version of the job '{artifact.collection.name}'.",
            hint="Move aliases with a user's key.",
        )
    collections.put_aliases(tx, artifact.collection.id, artifact.id, wanted)


def held_by_others(
    tx: Tx, principal: Principal, artifact: ArtifactRecord, names: Sequence[str]
) -> list[str]:
    """Aliases of a job that a run token may not move: others launch the version they name."""
    if principal.run is None or artifact.collection.type != JOB_TYPE:
        return []
    holders = artifacts.holders_of_aliases(tx, artifact.collection.id)
    return [name for name in names if holders.get(name, artifact.id) != artifact.id]
