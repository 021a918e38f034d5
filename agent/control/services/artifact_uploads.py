"""Uploading artifacts: announce, ask which contents are missing, commit.

The bytes themselves pass through `control/files`; here is what the database knows of them.
"""

import asyncio
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.control.auth.policy import Action, CredentialKind, Principal
from agent.control.services.artifacts import (
    checked_aliases,
    held_by_others,
    set_aliases,
    writable,
)
from agent.control.services.context import Service, read, write
from agent.control.services.leases import add_warning
from agent.control.services.runs import check_run
from agent.control.services.stored_bytes import check_room
from agent.control.store import artifact_files, artifacts, collections, contents, items, projects
from agent.control.store.artifact_files import EntryRecord, ManifestRecord
from agent.control.store.artifacts import ArtifactRecord, ArtifactState
from agent.control.store.collections import CollectionRecord
from agent.control.store.ids import new_artifact_id, new_id
from agent.control.store.tx import Tx
from agent.model.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from agent.model.job.digest import decoded, manifest_digest
from agent.model.job.names import JOB_TYPE, LATEST, safe_name
from agent.model.names import checked_project
from agent.model.spec import Json

#: Entries inserted in one transaction, so that other writers are not blocked for long.
_BATCH: Final = 2000
_DIGEST: Final = re.compile(r"[0-9a-f]{32}")
_MAX_NAME_CHARS: Final = 128
_FORBIDDEN: Final = frozenset("/\\:?#%\0")


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """W&B's `createArtifact`."""

    entity: str | None
    project: str
    type: str
    name: str
    digest: str
    digest_algorithm: str = "MANIFEST_MD5"
    description: str | None = None
    metadata: Json | None = None
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    ttl_seconds: int = 0
    history_step: int | None = None
    run_name: str | None = None
    #: The same id returns the same artifact.
    client_id: str | None = None
    #: Return a committed version with the same digest instead of making a new one.
    deduplicate: bool = False


class ArtifactUploads(Service):
    """From an announced artifact to a committed version; the caller needs `WRITE_RUNS`."""

    @write
    def create(self, tx: Tx, principal: Principal, wanted: NewArtifact) -> ArtifactRecord:
        """An artifact to upload to, or the one that exists already.

        The same client id gives the same artifact, in whatever state it is; with
        `deduplicate`, a committed version with the same digest is returned and gets the
        aliases. Project and collection are made on demand.

        Raises:
            ConflictError: the name belongs to an artifact of another type.
            InvalidInputError: name, digest or an alias.
            NotFoundError, PermissionDeniedError: the entity; or a run token, and another run's
                artifact or a job.
        """
        checked_aliases(wanted.aliases)
        entity = self._context.existing_entity(tx, principal, wanted.entity, Action.WRITE_RUNS)
        wanted = _of_run(principal, wanted)
        if not _DIGEST.fullmatch(wanted.digest):
            message = f"The artifact's digest is '{wanted.digest[:64]}'."
            raise InvalidInputError(message, hint="It is 32 hexadecimal characters.")
        projects.ensure(tx, entity, checked_project(wanted.project))
        collection = _ensure_collection(tx, entity, wanted)
        collections.lock(tx, collection.id)
        found = _existing(tx, principal, collection, wanted)
        found = found or _insert(tx, principal, collection, wanted)
        if wanted.client_id is not None:
            artifacts.insert_client(tx, collection.id, wanted.client_id, found.id)
        return found

    @write
    def save_manifest(
        self,
        tx: Tx,
        principal: Principal,
        artifact_id: str,
        name: str,
        digest: str,
        kind: str = "FULL",
    ) -> ManifestRecord:
        """Announce a manifest, or set the digest of the one of that name.

        Raises:
            NotFoundError, PermissionDeniedError: the artifact.
            ConflictError: it is complete already.
            InvalidInputError: not a digest.
        """
        found = self._pending(tx, principal, artifact_id)
        if digest:
            decoded(digest)
        values = {"artifact_id": found.id, "name": name, "digest": digest, "type": kind}
        manifest_id = artifact_files.save_manifest(tx, {"id": new_id(), **values})
        artifacts.change(tx, found.id, {})
        return artifact_files.require_manifest(tx, manifest_id)

    @write
    def set_manifest_digest(
        self, tx: Tx, principal: Principal, manifest_id: str, digest: str
    ) -> ManifestRecord:
        """Set the digest of a manifest's file.

        Raises: as `save_manifest`.
        """
        found = artifact_files.manifest(tx, manifest_id)
        if found is None:
            raise NotFoundError(f"There is no manifest with the id '{manifest_id}'.")
        self._pending(tx, principal, found.artifact_id)
        decoded(digest)
        artifact_files.set_manifest_digest(tx, manifest_id, digest)
        return artifact_files.require_manifest(tx, manifest_id)

    @write
    def find_stored(
        self, tx: Tx, principal: Principal, artifact_id: str, md5s: Collection[str]
    ) -> tuple[ArtifactRecord, frozenset[str]]:
        """The artifact, and which of the contents (MD5, hexadecimal) need no upload.

        Those are protected from removal for a day.

        Raises:
            QuotaExceededError: some need an upload, and the entity may not store more.
            NotFoundError, PermissionDeniedError, ConflictError: as `save_manifest`.
        """
        found = self._pending(tx, principal, artifact_id)
        entity = found.collection.entity
        known = contents.stored_contents(tx, entity, md5s)
        if len(known) < len(set(md5s)):
            check_room(tx, entity, self._context.config.max_stored)
        contents.touch(tx, entity, known)
        artifacts.change(tx, found.id, {})
        return found, frozenset(known)

    async def commit(
        self,
        principal: Principal,
        artifact_id: str,
        entries: Sequence[EntryRecord],
        job: tuple[Json | None, str | None] = (None, None),
    ) -> ArtifactRecord:
        """Make an artifact the next version of its collection and move aliases; idempotent.

        `entries` are those of the manifest; `job` is the content of `wandb-job.json`, or why
        it cannot be read.

        Raises:
            ConflictError: a file was never uploaded, or the manifest lists other files than
                the artifact's digest says.
            NotFoundError, PermissionDeniedError: the artifact.
        """
        found = await self._writable(principal, artifact_id)
        if found.state is ArtifactState.COMMITTED:
            return found
        _check_pending(found)
        # In a thread: a version may have a hundred thousand files.
        await asyncio.to_thread(_check_digest, found, entries)
        for start in range(0, len(entries), _BATCH):
            await self._insert_entries(found, entries[start : start + _BATCH])
        size = sum(entry.size for entry in entries)
        return await self._commit(principal, found, size, len(entries), job)

    @read
    def _writable(self, tx: Tx, principal: Principal, artifact_id: str) -> ArtifactRecord:
        return writable(tx, self._context, principal, artifact_id)

    @write
    def _insert_entries(
        self, tx: Tx, artifact: ArtifactRecord, batch: Sequence[EntryRecord]
    ) -> None:
        artifact_files.insert_entries(tx, artifact.id, batch)
        # A retention round that runs meanwhile did not see these entries: it has to find the
        # rows of the contents touched.
        md5s = {entry.md5 for entry in batch if entry.md5 is not None}
        contents.touch(tx, artifact.collection.entity, md5s)

    @write
    def _commit(
        self,
        tx: Tx,
        principal: Principal,
        artifact: ArtifactRecord,
        size: int,
        file_count: int,
        job: tuple[Json | None, str | None],
    ) -> ArtifactRecord:
        collection = artifact.collection
        collections.lock(tx, collection.id)
        now = artifacts.by_id(tx, artifact.id)
        if now is None or now.state is ArtifactState.DELETED:
            message = f"The artifact '{collection.name}' was deleted before it was complete."
            raise ConflictError(message, hint="Create it again.")
        if now.state is ArtifactState.COMMITTED:
            return now
        missing = artifact_files.first_without_content(tx, collection.entity, artifact.id)
        if missing is not None:
            raise ConflictError(
                f"The file '{missing}' of the artifact '{collection.name}' was never uploaded.",
                hint="Run the command again: files that have arrived are not sent twice.",
            )
        values = {
            "state": ArtifactState.COMMITTED.value,
            "version": collections.next_version(tx, collection.id),
            "size": size,
            "file_count": file_count,
            "job_file": job[0],
            "job_problem": job[1],
        }
        artifacts.change(tx, artifact.id, values)
        _set_wanted_aliases(tx, principal, artifacts.require(tx, artifact.id))
        collections.touch(tx, collection.id)
        return artifacts.require(tx, artifact.id)

    def _pending(self, tx: Tx, principal: Principal, artifact_id: str) -> ArtifactRecord:
        found = writable(tx, self._context, principal, artifact_id)
        _check_pending(found)
        return found


def _of_run(principal: Principal, wanted: NewArtifact) -> NewArtifact:
    """What a run token makes is made by its run, and is no job: jobs are what users launch.

    Raises:
        PermissionDeniedError
    """
    if principal.run is None:
        return wanted
    own = principal.run.run_name
    check_run(principal, wanted.project, wanted.run_name or own)
    if wanted.type == JOB_TYPE and principal.kind is CredentialKind.RUN:
        raise PermissionDeniedError(
            f"The token of {principal.name} makes no jobs.", hint="Make them with a user's key."
        )
    return replace(wanted, run_name=own)


def _set_wanted_aliases(tx: Tx, principal: Principal, artifact: ArtifactRecord) -> None:
    """Give a new version its aliases, `latest` among them; clients send them with every upload.

    Aliases that a run token may not move stay where they are, and a warning of the item names them;
    the upload is not refused.
    """
    wanted = checked_aliases((*artifacts.wanted_aliases(tx, artifact.id), LATEST))
    kept = held_by_others(tx, principal, artifact, wanted)
    given = [alias for alias in wanted if alias not in kept]
    set_aliases(tx, artifact, given, principal)
    item = None if principal.run is None or not kept else items.row(tx, principal.run.item_id)
    if item is not None:
        quoted = ", ".join(f"`{alias}`" for alias in kept)
        text = (
            f"{artifact.reference} was stored without {quoted}: a run moves no alias of a job. "
            "Move it with a user's key."
        )
        items.change(tx, item, {"warnings": add_warning(item, text), "updated_at": tx.now})


def _check_pending(found: ArtifactRecord) -> None:
    if found.state is not ArtifactState.PENDING:
        message = f"The artifact '{found.collection.name}' is {found.state.lower()} already."
        raise ConflictError(message, hint="Create a new version.")


def _check_digest(found: ArtifactRecord, entries: Sequence[EntryRecord]) -> None:
    """The manifest lists the files of which the announced digest was made."""
    if found.digest_algorithm != "MANIFEST_MD5":
        return
    listed = manifest_digest({entry.path: entry.digest for entry in entries})
    if listed != found.digest:
        raise ConflictError(
            f"The manifest of '{found.collection.name}' lists other files than announced: "
            f"its digest is {listed}, {found.digest} was announced.",
            hint="Create the artifact again.",
        )


def _ensure_collection(tx: Tx, entity: str, wanted: NewArtifact) -> CollectionRecord:
    name, kind = _checked(wanted.name, "name"), _checked(wanted.type, "type")
    found = collections.ensure(tx, entity, wanted.project, name, kind)
    if found.type != kind:
        raise ConflictError(
            f"'{name}' in {entity}/{wanted.project} is an artifact of type `{found.type}`, "
            f"not of type `{kind}`.",
            hint=f"Choose another name, for example `{safe_name(f'{name}-{kind}')}`.",
        )
    return found


def _checked(name: str, what: str) -> str:
    if 0 < len(name) <= _MAX_NAME_CHARS and name.strip() == name and not _FORBIDDEN & set(name):
        return name
    raise InvalidInputError(
        f"'{name[:_MAX_NAME_CHARS]}' cannot be the {what} of an artifact.",
        hint=f"1 to {_MAX_NAME_CHARS} characters without `/ \\ : ? # %`.",
    )


def _existing(
    tx: Tx, principal: Principal, collection: CollectionRecord, wanted: NewArtifact
) -> ArtifactRecord | None:
    """What the same client made before, else a version with the same content."""
    if wanted.client_id is not None:
        own = artifacts.by_client(tx, collection.id, wanted.client_id)
        if own is not None:
            return own
    same = artifacts.by_digest(tx, collection.id, wanted.digest) if wanted.deduplicate else None
    if same is None:
        return None
    if principal.run is None or same.run_name == principal.run.run_name:
        kept = held_by_others(tx, principal, same, wanted.aliases)
        given = [alias for alias in wanted.aliases if alias not in kept]
        set_aliases(tx, same, given, principal)
    return artifacts.require(tx, same.id)


def _insert(
    tx: Tx, principal: Principal, collection: CollectionRecord, wanted: NewArtifact
) -> ArtifactRecord:
    values: dict[str, Any] = {
        "id": new_artifact_id(),
        "collection_id": collection.id,
        "state": ArtifactState.PENDING.value,
        "digest": wanted.digest,
        "digest_algorithm": wanted.digest_algorithm,
        "description": wanted.description,
        "metadata": wanted.metadata or {},
        "tags": list(wanted.tags),
        "wanted_aliases": list(wanted.aliases),
        "size": 0,
        "file_count": 0,
        "ttl_seconds": wanted.ttl_seconds,
        "history_step": wanted.history_step,
        "run_name": wanted.run_name,
        "user_name": principal.name if principal.user_id else None,
    }
    artifacts.insert(tx, values)
    return artifacts.require(tx, values["id"])
