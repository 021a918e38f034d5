"""Uploading artifacts: announce, say which contents are missing, commit.

Bytes pass through `control/files`; here is what the database knows of them.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

from agent.control.auth.policy import Principal
from agent.control.services import artifact_making
from agent.control.services.artifact_access import writable
from agent.control.services.artifact_naming import check_aliases
from agent.control.services.context import Context
from agent.control.store import artifact_files, artifacts
from agent.control.store.artifact_records import (
    ArtifactRecord,
    ArtifactState,
    EntryRecord,
    ManifestRecord,
    NewArtifact,
)
from agent.control.store.ids import new_id
from agent.control.store.tx import Tx
from agent.model.errors import ConflictError, NotFoundError
from agent.model.job.digest import decoded, manifest_digest
from agent.model.spec import Json

#: Entries of one transaction: others write in between.
_BATCH: Final = 2000


class Uploads:
    """The way from an announced artifact to a version; needs the right to write runs."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, principal: Principal, wanted: NewArtifact) -> ArtifactRecord:
        """An artifact to upload to, or the one that there is already.

        The same client id gives the same artifact, in whatever state it is; with
        `deduplicate`, a committed version with the same digest is given back, and takes the
        aliases. Project, collection and type are made on demand.

        Raises:
            ConflictError: the name belongs to an artifact of another type.
            InvalidInputError: name, digest or an alias.
            NotFoundError, PermissionDeniedError: the entity, or a run token's project.
        """
        check_aliases(wanted.aliases)
        context = self._context
        return await context.database.write(
            lambda tx: artifact_making.create(tx, context, principal, wanted)
        )

    async def save_manifest(
        self, principal: Principal, artifact_id: str, name: str, digest: str, kind: str = "FULL"
    ) -> ManifestRecord:
        """Announce the manifest, or give the one of that name the digest of its file.

        Raises:
            NotFoundError, PermissionDeniedError: the artifact.
            ConflictError: it is complete already.
            InvalidInputError: the digest is none.
        """

        def work(tx: Tx) -> ManifestRecord:
            found = self._pending(tx, principal, artifact_id)
            if digest:
                decoded(digest)
            values = {"artifact_id": found.id, "name": name, "digest": digest, "type": kind}
            manifest_id = artifact_files.save_manifest(tx, {"id": new_id(), **values})
            artifacts.change(tx, found.id, {})
            return artifact_files.require_manifest(tx, manifest_id)

        return await self._context.database.write(work)

    async def change_manifest(
        self, principal: Principal, manifest_id: str, digest: str
    ) -> ManifestRecord:
        """Give a manifest the digest of its file.

        Raises: as `save_manifest`.
        """

        def work(tx: Tx) -> ManifestRecord:
            found = artifact_files.manifest(tx, manifest_id)
            if found is None:
                raise NotFoundError(f"There is no manifest with the id '{manifest_id}'.")
            self._pending(tx, principal, found.artifact_id)
            decoded(digest)
            artifact_files.set_manifest_digest(tx, manifest_id, digest)
            return artifact_files.require_manifest(tx, manifest_id)

        return await self._context.database.write(work)

    async def stored(
        self, principal: Principal, artifact_id: str, md5s: Collection[str]
    ) -> tuple[ArtifactRecord, frozenset[str]]:
        """The artifact, and which of the contents (MD5, hexadecimal) need no upload any more.

        Those are kept from being collected for a day.

        Raises: as `save_manifest`.
        """

        def work(tx: Tx) -> tuple[ArtifactRecord, frozenset[str]]:
            found = self._pending(tx, principal, artifact_id)
            known = artifact_files.contents_of(tx, found.collection.entity, md5s)
            artifact_files.touch_contents(tx, found.collection.entity, known)
            artifacts.change(tx, found.id, {})
            return found, frozenset(known)

        return await self._context.database.write(work)

    async def commit(
        self,
        principal: Principal,
        artifact_id: str,
        entries: Sequence[EntryRecord],
        job: tuple[Json | None, str | None] = (None, None),
    ) -> ArtifactRecord:
        """Make it the next version; once it is one, doing so again changes nothing.

        `entries` are those of the manifest, `job` is what its `wandb-job.json` says and what
        is wrong with it. Aliases are moved, `latest` among them.

        Raises:
            ConflictError: a file was never uploaded, or the manifest lists other files than
                the artifact's digest says.
            NotFoundError, PermissionDeniedError: the artifact.
        """
        database = self._context.database
        found = await database.read(lambda tx: writable(tx, self._context, principal, artifact_id))
        if found.state is ArtifactState.COMMITTED:
            return found
        _check_pending(found)
        # Not on the event loop: a version may have a hundred thousand files.
        await asyncio.to_thread(_check_digest, found, entries)
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            await database.write(_inserting(found, batch))
        totals = (sum(entry.size for entry in entries), len(entries))

        def work(tx: Tx) -> ArtifactRecord:
            artifact_making.commit(tx, found, totals, job)
            return artifacts.require(tx, found.id)

        return await database.write(work)

    def _pending(self, tx: Tx, principal: Principal, artifact_id: str) -> ArtifactRecord:
        found = writable(tx, self._context, principal, artifact_id)
        _check_pending(found)
        return found


def _check_pending(found: ArtifactRecord) -> None:
    if found.state is not ArtifactState.PENDING:
        message = f"The artifact '{found.collection.name}' is {found.state.lower()} already."
        raise ConflictError(message, hint="Create a new version.")


def _inserting(found: ArtifactRecord, batch: Sequence[EntryRecord]) -> Callable[[Tx], None]:
    def work(tx: Tx) -> None:
        artifact_files.insert_entries(tx, found.id, batch)
        # A sweep that is under way saw none of the entries: it must find the rows touched.
        md5s = {entry.md5 for entry in batch if entry.md5 is not None}
        artifact_files.touch_contents(tx, found.collection.entity, md5s)

    return work


def _check_digest(found: ArtifactRecord, entries: Sequence[EntryRecord]) -> None:
    """What was announced is what the manifest lists."""
    if found.digest_algorithm != "MANIFEST_MD5":
        return
    listed = manifest_digest({entry.path: entry.digest for entry in entries})
    if listed != found.digest:
        raise ConflictError(
            f"The manifest of '{found.collection.name}' lists other files than announced: "
            f"its digest is {listed}, {found.digest} was announced.",
            hint="Create the artifact again.",
        )
