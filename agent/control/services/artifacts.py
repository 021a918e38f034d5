"""Artifacts: versions of named collections, looked up and changed. `Uploads` makes them."""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from agent.control.auth.policy import Action, Principal
from agent.control.services.artifact_access import absent, visible, writable
from agent.control.services.artifact_naming import (
    check_aliases,
    find,
    give_aliases,
    split_name,
)
from agent.control.services.context import Context
from agent.control.services.paging import cursor, numbered_page, page_of, page_size
from agent.control.services.runs import check_scope
from agent.control.store import aliases, artifact_files, artifacts, collections, runs
from agent.control.store.artifact_records import (
    ArtifactChange,
    ArtifactRecord,
    ArtifactState,
    CollectionRecord,
    EntryRecord,
    ManifestRecord,
)
from agent.control.store.records import Page, RunRecord
from agent.control.store.tables import to_datetime
from agent.control.store.tx import Tx
from agent.model.errors import ConflictError
from agent.model.job.names import LATEST
from agent.model.spec import Json

T = TypeVar("T")


class Artifacts:
    """Reading needs the right to read the entity, writing that to write runs there."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self, principal: Principal, artifact_id: str) -> ArtifactRecord | None:
        """An artifact by id; `None` when it is absent or hidden."""
        found = await self._read(lambda tx: artifacts.by_id(tx, artifact_id))
        return visible(self._context, principal, found)

    async def by_name(
        self, principal: Principal, entity: str | None, project: str, name: str
    ) -> ArtifactRecord | None:
        """A version by `collection:alias` or `collection:v<N>`; `None` when there is none."""
        collection_name, alias = split_name(name)

        def work(tx: Tx) -> ArtifactRecord | None:
            place = entity or principal.default_entity
            collection = collections.by_name(tx, place, project, collection_name)
            return None if collection is None else find(tx, collection.id, alias)

        return visible(self._context, principal, await self._read(work))

    async def by_alias(
        self, principal: Principal, collection: CollectionRecord, alias: str
    ) -> ArtifactRecord | None:
        """A version of a collection."""
        found = await self._read(lambda tx: find(tx, collection.id, alias))
        return visible(self._context, principal, found)

    async def newest(
        self, principal: Principal, collection: CollectionRecord
    ) -> ArtifactRecord | None:
        """The committed version with the highest number; `None` while there is none."""
        found = await self._read(lambda tx: artifacts.newest(tx, collection.id))
        return visible(self._context, principal, found)

    async def collection(
        self, principal: Principal, entity: str | None, project: str, name: str
    ) -> CollectionRecord | None:
        """A collection; `None` when it is absent or hidden."""
        place = entity or principal.default_entity
        if not self._context.policy.allows(principal, place, Action.READ):
            return None
        return await self._read(lambda tx: collections.by_name(tx, place, project, name))

    async def collection_by_id(
        self, principal: Principal, collection_id: str
    ) -> CollectionRecord | None:
        """A collection by id; `None` when it is absent or hidden."""
        found = await self._read(lambda tx: collections.by_id(tx, collection_id))
        if found is None or not self._context.policy.allows(principal, found.entity, Action.READ):
            return None
        return found

    async def collections(
        self,
        principal: Principal,
        entity: str | None,
        project: str,
        *,
        kind: str | None = None,
        after: str | None = None,
        first: int = 100,
    ) -> Page[CollectionRecord]:
        """Collections of a project, the first made first; `kind` is their type.

        Raises:
            NotFoundError: the entity.
        """
        size, after_seq = page_size(first), cursor(after)

        def work(tx: Tx) -> Page[CollectionRecord]:
            place = self._context.existing(tx, principal, entity, Action.READ)
            found, total = collections.page(
                tx, place, project, kind=kind, after=after_seq, limit=size + 1
            )
            return numbered_page(found, size, total)

        return await self._read(work)

    async def types(
        self, principal: Principal, entity: str | None, project: str
    ) -> tuple[Json, ...]:
        """Types in use in a project: `name` and `created_at`."""

        def work(tx: Tx) -> tuple[Json, ...]:
            place = self._context.existing(tx, principal, entity, Action.READ)
            found = collections.types(tx, place, project)
            return tuple({"name": name, "created_at": to_datetime(first)} for name, first in found)

        return await self._read(work)

    async def versions(
        self,
        principal: Principal,
        collection: CollectionRecord,
        *,
        after: str | None = None,
        first: int = 100,
    ) -> Page[ArtifactRecord]:
        """Committed versions, newest first.

        Raises:
            NotFoundError: the caller may not read the entity.
        """
        self._context.policy.require(principal, collection.entity, Action.READ)
        size, before = page_size(first), cursor(after)

        def work(tx: Tx) -> Page[ArtifactRecord]:
            found, total = artifacts.versions(tx, collection.id, before=before, limit=size + 1)
            return page_of(found, size, total, lambda record: record.version)

        return await self._read(work)

    async def entries(
        self,
        principal: Principal,
        artifact: ArtifactRecord,
        *,
        names: Collection[str] | None = None,
        after: str | None = None,
        first: int = 100,
    ) -> Page[EntryRecord]:
        """Files of an artifact by path, references among them.

        Raises:
            NotFoundError: the caller may not read the entity.
        """
        self._context.policy.require(principal, artifact.collection.entity, Action.READ)
        size = page_size(first)

        def work(tx: Tx) -> Page[EntryRecord]:
            found, total = artifact_files.entries(
                tx, artifact.id, names=names, after=after or "", limit=size + 1
            )
            return page_of(found, size, total, lambda entry: entry.path)

        return await self._read(work)

    async def manifest(
        self, principal: Principal, artifact: ArtifactRecord
    ) -> ManifestRecord | None:
        """The manifest of an artifact; `None` before it is announced and after deletion."""
        self._context.policy.require(principal, artifact.collection.entity, Action.READ)
        return await self._read(lambda tx: artifact_files.manifest_of(tx, artifact.id))

    async def server_id(self, principal: Principal, client_id: str) -> str | None:
        """The id of the artifact that a client made under an id of its own."""
        found = await self._read(lambda tx: artifacts.of_client(tx, client_id))
        shown = (visible(self._context, principal, each) for each in found)
        return next((each.id for each in shown if each is not None), None)

    async def holds(self, principal: Principal, collection: CollectionRecord, md5: str) -> bool:
        """Whether a version of the collection has a file with that content."""
        self._context.policy.require(principal, collection.entity, Action.READ)
        return await self._read(lambda tx: artifact_files.holds(tx, collection.id, md5))

    async def use(
        self,
        principal: Principal,
        artifact_id: str,
        *,
        entity: str | None,
        project: str,
        run_name: str,
        used_as: str | None = None,
    ) -> ArtifactRecord:
        """A run takes an artifact as input; saying so again changes nothing.

        Raises:
            NotFoundError: the artifact, or the run's entity.
        """

        def work(tx: Tx) -> ArtifactRecord:
            place = self._context.existing(tx, principal, entity, Action.WRITE_RUNS)
            check_scope(principal, project)
            found = visible(self._context, principal, artifacts.by_id(tx, artifact_id))
            if found is None:
                raise absent(artifact_id)
            run = {"entity": place, "project": project, "run_name": run_name}
            artifact_files.insert_use(tx, {**run, "artifact_id": found.id, "used_as": used_as})
            return found

        return await self._context.database.write(work)

    async def inputs_of(self, principal: Principal, run: RunRecord) -> tuple[ArtifactRecord, ...]:
        """What a run takes as input."""
        self._context.policy.require(principal, run.entity, Action.READ)

        def work(tx: Tx) -> list[ArtifactRecord]:
            ids = artifact_files.used_ids(tx, run.entity, run.project, run.name)
            return artifacts.by_ids(tx, ids)

        found = await self._read(work)
        return tuple(each for each in found if visible(self._context, principal, each) is not None)

    async def outputs_of(self, principal: Principal, run: RunRecord) -> tuple[ArtifactRecord, ...]:
        """What a run made."""
        self._context.policy.require(principal, run.entity, Action.READ)
        found = await self._read(
            lambda tx: artifacts.written_by(tx, run.entity, run.project, run.name)
        )
        return tuple(found)

    async def users_of(
        self, principal: Principal, artifact: ArtifactRecord
    ) -> tuple[RunRecord, ...]:
        """Runs that take an artifact as input, as far as the caller may read them."""

        def work(tx: Tx) -> list[RunRecord | None]:
            return [runs.by_name(tx, *place) for place in artifact_files.users_of(tx, artifact.id)]

        allows = self._context.policy.allows
        found = await self._read(work)
        return tuple(run for run in found if run and allows(principal, run.entity, Action.READ))

    async def update(
        self, principal: Principal, artifact_id: str, change: ArtifactChange
    ) -> ArtifactRecord:
        """Change what is not content.

        Raises:
            NotFoundError, PermissionDeniedError: the artifact.
            InvalidInputError: an alias.
        """

        def work(tx: Tx) -> ArtifactRecord:
            found = writable(tx, self._context, principal, artifact_id)
            artifacts.change(tx, found.id, _columns(found, change))
            if change.aliases is not None:
                collections.lock(tx, found.collection.id)
                gone = set(found.aliases) - set(change.aliases)
                aliases.take(tx, found.id, gone)
                give_aliases(tx, found.collection.id, found.id, change.aliases)
            return artifacts.require(tx, found.id)

        return await self._context.database.write(work)

    async def add_aliases(
        self, principal: Principal, artifact_id: str, names: Sequence[str]
    ) -> ArtifactRecord:
        """Let aliases stand for this version from now on.

        Raises: as `update`; ConflictError: it is not committed.
        """

        def work(tx: Tx) -> ArtifactRecord:
            found = writable(tx, self._context, principal, artifact_id)
            if found.state is not ArtifactState.COMMITTED:
                message = f"The artifact '{found.collection.name}' is {found.state.lower()}."
                raise ConflictError(message, hint="Only a complete version can have aliases.")
            collections.lock(tx, found.collection.id)
            for name in names:
                check_aliases((name,))
            give_aliases(tx, found.collection.id, found.id, names)
            return artifacts.require(tx, found.id)

        return await self._context.database.write(work)

    async def delete_aliases(
        self, principal: Principal, artifact_id: str, names: Sequence[str]
    ) -> ArtifactRecord:
        """Take aliases away; one that it has not is no error.

        Raises: as `update`.
        """

        def work(tx: Tx) -> ArtifactRecord:
            found = writable(tx, self._context, principal, artifact_id)
            aliases.take(tx, found.id, names)
            return artifacts.require(tx, found.id)

        return await self._context.database.write(work)

    async def delete(
        self, principal: Principal, artifact_id: str, *, with_aliases: bool = False
    ) -> ArtifactRecord:
        """Delete a version; its number is not given again, and `latest` moves to the newest left.

        Raises:
            ConflictError: it has aliases, and `with_aliases` is not set.
            NotFoundError, PermissionDeniedError: the artifact.
        """

        def work(tx: Tx) -> ArtifactRecord:
            found = writable(tx, self._context, principal, artifact_id)
            collections.lock(tx, found.collection.id)
            if found.aliases and not with_aliases:
                names = ", ".join(f"`{alias}`" for alias in found.aliases)
                message = f"{found.reference} has the aliases {names}."
                raise ConflictError(message, hint="Delete it with its aliases, or move them first.")
            aliases.take(tx, found.id)
            artifact_files.drop_files(tx, found.id)
            artifacts.change(tx, found.id, {"state": ArtifactState.DELETED.value})
            left = artifacts.newest(tx, found.collection.id)
            if left is not None and LATEST in found.aliases:
                give_aliases(tx, left.collection.id, left.id, (LATEST,))
            return artifacts.require(tx, found.id)

        return await self._context.database.write(work)

    async def _read(self, work: Callable[[Tx], T]) -> T:
        return await self._context.database.read(work)


def _columns(found: ArtifactRecord, change: ArtifactChange) -> Json:
    kept = [tag for tag in found.tags if tag not in change.tags_to_delete]
    values = {
        "description": change.description,
        "metadata": change.metadata,
        "ttl_seconds": change.ttl_seconds,
        "tags": list(dict.fromkeys([*kept, *change.tags_to_add])),
    }
    return {key: value for key, value in values.items() if value is not None}
