"""From an announced artifact to a version, inside transactions."""

import re
from typing import Any, Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.artifact_naming import give_aliases, make_collection
from agent.control.services.context import Context
from agent.control.services.runs import check_scope
from agent.control.store import artifact_files, artifacts, collections, projects
from agent.control.store.artifact_records import (
    ArtifactRecord,
    ArtifactState,
    CollectionRecord,
    NewArtifact,
)
from agent.control.store.ids import new_artifact_id
from agent.control.store.tx import Tx
from agent.model.errors import ConflictError, InvalidInputError
from agent.model.job.names import LATEST
from agent.model.names import checked_project
from agent.model.spec import Json

_DIGEST: Final = re.compile(r"[0-9a-f]{32}")


def create(tx: Tx, context: Context, principal: Principal, wanted: NewArtifact) -> ArtifactRecord:
    """An artifact to upload to, or the one that there is already.

    Raises: see `Artifacts.create`.
    """
    entity = context.existing(tx, principal, wanted.entity, Action.WRITE_RUNS)
    check_scope(principal, wanted.project)
    if not _DIGEST.fullmatch(wanted.digest):
        message = f"The artifact's digest is '{wanted.digest[:64]}'."
        raise InvalidInputError(message, hint="It is 32 hexadecimal characters.")
    projects.ensure(tx, entity, checked_project(wanted.project))
    collection = make_collection(tx, entity, wanted)
    collections.lock(tx, collection.id)
    known = _known(tx, collection, wanted)
    if known is None:
        known = _insert(tx, principal, collection, wanted)
    if wanted.client_id is not None:
        artifacts.insert_client(tx, collection.id, wanted.client_id, known.id)
    return known


def commit(
    tx: Tx, found: ArtifactRecord, totals: tuple[int, int], job: tuple[Json | None, str | None]
) -> None:
    """Make an artifact, all of whose contents have to be there, the next version.

    `totals` are bytes and files; `job` is what its `wandb-job.json` says, and what is wrong
    with it.

    Raises:
        ConflictError: a file was never uploaded, or the artifact was deleted.
    """
    collection = found.collection
    collections.lock(tx, collection.id)
    now = artifacts.by_id(tx, found.id)
    if now is None or now.state is ArtifactState.DELETED:
        message = f"The artifact '{collection.name}' was deleted before it was complete."
        raise ConflictError(message, hint="Create it again.")
    if now.state is ArtifactState.COMMITTED:
        return
    missing = artifact_files.first_without_content(tx, collection.entity, found.id)
    if missing is not None:
        message = f"The file '{missing}' of the artifact '{collection.name}' was never uploaded."
        raise ConflictError(message, hint="Run the command again: what is there is not sent twice.")
    size, files = totals
    values: dict[str, Any] = {
        "state": ArtifactState.COMMITTED.value,
        "version": collections.take_version(tx, collection.id),
        "size": size,
        "file_count": files,
        "job_file": job[0],
        "job_problem": job[1],
    }
    artifacts.change(tx, found.id, values)
    wanted = artifacts.wanted_aliases(tx, found.id)
    give_aliases(tx, collection.id, found.id, (*wanted, LATEST))
    collections.touch(tx, collection.id)


def _known(tx: Tx, collection: CollectionRecord, wanted: NewArtifact) -> ArtifactRecord | None:
    """What the same client made before, else a version with the same content."""
    if wanted.client_id is not None:
        own = artifacts.by_client(tx, collection.id, wanted.client_id)
        if own is not None:
            return own
    same = artifacts.by_digest(tx, collection.id, wanted.digest) if wanted.deduplicate else None
    if same is None:
        return None
    give_aliases(tx, collection.id, same.id, wanted.aliases)
    return artifacts.by_id(tx, same.id)


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
        "user_name": principal.name if principal.user_id else None,
        "run_name": wanted.run_name,
    }
    artifacts.insert(tx, values)
    return artifacts.require(tx, values["id"])
