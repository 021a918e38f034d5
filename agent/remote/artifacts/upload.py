"""Storing a new version of an artifact, in the order in which W&B's client does it.

Create → empty manifest → upload URLs of the files → files → manifest → commit. Only what the
server does not have is sent; others see a version from the commit on, so an upload that breaks
leaves nothing visible, and the next one sends what is missing.
"""

import asyncio
import json
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final, Self

from agent.model.errors import LaunchError, ServerError
from agent.model.job.digest import MANIFEST_NAME, manifest_digest
from agent.remote.artifacts.contents import Content, PartSizes, write_manifest
from agent.remote.artifacts.file_upload import FileUploads, PendingVersion, SentFiles
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import ControlPlaneClient

Json = dict[str, Any]

_PART_SIZES: Final = PartSizes()
#: Seconds; the server may check many files before it answers.
_COMMIT_DEADLINE: Final = 300.0
_ALPHABET: Final = string.ascii_lowercase + string.digits

_CREATE: Final = """
mutation CreateArtifact($input: CreateArtifactInput!) {
  createArtifact(input: $input) {
    artifact { id state artifactSequence { id latestArtifact { id versionIndex } } }
  }
}
"""

_MANIFEST: Final = """
mutation CreateArtifactManifest(
  $artifactID: ID!, $baseArtifactID: ID, $name: String!, $digest: String!,
  $entityName: String!, $projectName: String!, $runName: String!,
  $manifestType: ArtifactManifestType!, $includeUpload: Boolean!
) {
  createArtifactManifest(input: {
    artifactID: $artifactID, baseArtifactID: $baseArtifactID, name: $name, digest: $digest,
    entityName: $entityName, projectName: $projectName, runName: $runName, type: $manifestType
  }) {
    artifactManifest {
      id
      file { id uploadUrl @include(if: $includeUpload) uploadHeaders @include(if: $includeUpload) }
    }
  }
}
"""

_COMMIT: Final = """
mutation CommitArtifact($artifactID: ID!) {
  commitArtifact(input: { artifactID: $artifactID }) { artifact { id digest } }
}
"""

_HIDDEN_RUN: Final = """
mutation UpsertBucket($name: String, $project: String, $entity: String, $jobType: String) {
  upsertBucket(input: {
    name: $name, modelName: $project, entityName: $entity, jobType: $jobType
  }) { bucket { id name } inserted }
}
"""

_DELETE_RUN: Final = """
mutation DeleteRun($id: ID!, $deleteArtifacts: Boolean) {
  deleteRun(input: { id: $id, deleteArtifacts: $deleteArtifacts }) { clientMutationId }
}
"""


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to be stored."""

    entity: str
    project: str
    type: str
    collection: str
    contents: Sequence[Content]
    aliases: Sequence[str] = ("latest",)
    description: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version on the server."""

    id: str
    #: `Created`, `Updated`, or `No changes detected for`: W&B's words.
    action: str
    #: Files that had to be sent, and their bytes.
    sent_files: int = 0
    sent_bytes: int = 0


class ArtifactUploader:
    """Stores versions, over one client; use it as an async context manager.

    W&B's servers want uploads to belong to a run: as W&B's command line does, a hidden one is
    made when it is first needed and deleted at exit. `progress` is called with the number of
    files that are on the server and the number of all.
    """

    def __init__(
        self,
        client: ControlPlaneClient,
        transfers: Transfers,
        progress: Callable[[int, int], None] = lambda _done, _all: None,
        part_sizes: PartSizes = _PART_SIZES,
    ) -> None:
        self._client = client
        self._progress = progress
        self._transfers = transfers
        self._part_sizes = part_sizes
        self._run_name = _random(8)
        self._run_id: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._run_id is not None:
            given = {"id": self._run_id, "deleteArtifacts": False}
            # A failure here must not hide another error; a leftover run is harmless.
            with suppress(LaunchError):
                await self._client.execute(_DELETE_RUN, given, idempotent=True)

    async def store(self, wanted: NewVersion) -> StoredVersion:
        """Store a version, unless the newest one has the same content.

        Raises:
            InvalidInputError: a file changed meanwhile.
            UnreachableError: the connection failed for too long; nothing became visible.
            LaunchError: the server refused it.
        """
        digest = manifest_digest({each.path: each.digest for each in wanted.contents})
        artifact = await self._create(wanted, digest)
        latest = artifact["artifactSequence"]["latestArtifact"]
        match artifact["state"]:
            case "COMMITTED":
                return StoredVersion(artifact["id"], "No changes detected for")
            case "PENDING":
                sent = await self._fill(wanted, artifact["id"])
                action = "Created" if latest is None else "Updated"
                return StoredVersion(artifact["id"], action, sent.files, sent.bytes)
            case state:
                raise ServerError(f"The server made `{wanted.collection}` as {state}.")

    async def _create(self, wanted: NewVersion, digest: str) -> Json:
        data = await self._client.execute(
            _CREATE,
            {
                "input": {
                    "entityName": wanted.entity,
                    "projectName": wanted.project,
                    "artifactTypeName": wanted.type,
                    "artifactCollectionName": wanted.collection,
                    "description": wanted.description,
                    "digest": digest,
                    "digestAlgorithm": "MANIFEST_MD5",
                    "enableDigestDeduplication": True,
                    "aliases": [
                        {"artifactCollectionName": wanted.collection, "alias": alias}
                        for alias in wanted.aliases
                    ],
                    "metadata": json.dumps(dict(wanted.metadata)) if wanted.metadata else None,
                    "clientID": _random(128),
                    "sequenceClientID": _random(128),
                }
            },
            # With the same client id a repeat returns the same version.
            idempotent=True,
        )
        artifact: Json = data["createArtifact"]["artifact"]
        return artifact

    async def _fill(self, wanted: NewVersion, artifact_id: str) -> SentFiles:
        await self._ensure_run(wanted)
        empty = await self._manifest(wanted, artifact_id, "", include_upload=False)
        ours = await self._client.has_leases()
        uploads = FileUploads(self._client, self._transfers, self._part_sizes, ours=ours)
        target = PendingVersion(artifact_id, empty["id"])
        sent = await uploads.send(wanted.contents, target, self._progress)
        with NamedTemporaryFile(prefix="launch-manifest-") as file:
            await self._send_manifest(file, wanted, artifact_id, sent)
        await self._client.execute(
            _COMMIT, {"artifactID": artifact_id}, deadline=_COMMIT_DEADLINE, idempotent=True
        )
        return sent

    async def _send_manifest(
        self, file: IO[bytes], wanted: NewVersion, artifact_id: str, sent: SentFiles
    ) -> None:
        content = await asyncio.to_thread(
            write_manifest, file, wanted.contents, artifact_id, sent.birth_artifacts
        )
        named = await self._manifest(wanted, artifact_id, content.digest, include_upload=True)
        place = named["file"]
        if place["uploadUrl"] is not None:
            await self._transfers.put(content, place["uploadUrl"], place["uploadHeaders"] or [])

    async def _ensure_run(self, wanted: NewVersion) -> None:
        """On W&B's servers uploads belong to a run: make a hidden one."""
        if self._run_id is not None or await self._client.has_leases():
            return
        given = {
            "name": self._run_name,
            "project": wanted.project,
            "entity": wanted.entity,
            "jobType": "cli_create_job",
        }
        data = await self._client.execute(_HIDDEN_RUN, given, idempotent=True)
        self._run_id = data["upsertBucket"]["bucket"]["id"]

    async def _manifest(
        self, wanted: NewVersion, artifact_id: str, digest: str, *, include_upload: bool
    ) -> Json:
        data = await self._client.execute(
            _MANIFEST,
            {
                "artifactID": artifact_id,
                "baseArtifactID": None,
                "name": MANIFEST_NAME,
                "digest": digest,
                "entityName": wanted.entity,
                "projectName": wanted.project,
                "runName": self._run_name,
                "manifestType": "FULL",
                "includeUpload": include_upload,
            },
            idempotent=True,
        )
        named: Json = data["createArtifactManifest"]["artifactManifest"]
        return named


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
