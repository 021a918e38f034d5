"""Storing a new version of an artifact, in the order in which W&B's client does it.

Create → manifest's place → places of the files → files → manifest → commit. Only what the
server does not hold is sent; a version exists for others from the commit on, so a cut upload
leaves none behind, and the next try sends what is missing. Files that are too large for one
request of an object store go in parts, where the server gives places for parts.
"""

import asyncio
import json
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import IO, Any, Final, Self

from agent.model.errors import LaunchError, ServerError
from agent.model.job.digest import manifest_digest
from agent.remote.artifacts import documents, manifest
from agent.remote.artifacts.parts import Parting
from agent.remote.artifacts.reading import Content
from agent.remote.artifacts.sending import Sending, Sent, Unfinished
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import GraphQLClient
from agent.remote.features import LEASES, features

Json = dict[str, Any]

_PARTING: Final = Parting()
#: Seconds; the server may check many files before it answers.
_COMMIT: Final = 300.0
_ALPHABET: Final = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What shall be stored."""

    entity: str
    project: str
    type: str
    collection: str
    contents: Sequence[Content]
    aliases: Sequence[str] = ("latest",)
    description: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """What the server has now."""

    id: str
    #: `Created`, `Updated`, or `No changes detected for`: W&B's words.
    action: str
    #: Files that were sent, and their bytes.
    sent_files: int = 0
    sent_bytes: int = 0


class Uploads:
    """The write half, over one client; use it as an async context manager.

    W&B's servers want uploads to belong to a run: theirs gets a hidden one, made when it is
    first needed and deleted in the end, as W&B's command line does. `progress` hears, while a
    version is sent, how many of its files are there, and of how many. `parting` tells which
    files go in parts; our own control plane takes any size in one request.
    """

    def __init__(
        self,
        client: GraphQLClient,
        transfers: Transfers,
        progress: Callable[[int, int], None] = lambda _done, _all: None,
        parting: Parting = _PARTING,
    ) -> None:
        self._client = client
        self._progress = progress
        self._transfers = transfers
        self._parting = parting
        self._run_name = _random(8)
        self._run_id: str | None = None
        #: What the server offers; not known before the first upload.
        self._features: frozenset[str] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._run_id is not None:
            given = {"id": self._run_id, "deleteArtifacts": False}
            # A hidden run that is left over harms nobody; it must not hide what went wrong.
            with suppress(LaunchError):
                await self._client.execute(documents.DELETE_RUN, given, idempotent=True)

    async def store(self, wanted: NewVersion) -> Stored:
        """Store a version, unless the newest content is the same.

        Raises:
            InvalidInputError: a file changed meanwhile.
            UnreachableError: the connection failed for too long; nothing became visible.
            LaunchError: what the server refuses.
        """
        digest = manifest_digest({each.path: each.digest for each in wanted.contents})
        artifact = await self._create(wanted, digest)
        latest = artifact["artifactSequence"]["latestArtifact"]
        match artifact["state"]:
            case "COMMITTED":
                return Stored(artifact["id"], "No changes detected for")
            case "PENDING":
                sent = await self._fill(wanted, artifact["id"])
                action = "Created" if latest is None else "Updated"
                return Stored(artifact["id"], action, sent.files, sent.bytes)
            case state:
                raise ServerError(f"The server made `{wanted.collection}` as {state}.")

    async def _create(self, wanted: NewVersion, digest: str) -> Json:
        data = await self._client.execute(
            documents.CREATE,
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
            # The client's id makes a repeat find the first one.
            idempotent=True,
        )
        artifact: Json = data["createArtifact"]["artifact"]
        return artifact

    async def _fill(self, wanted: NewVersion, artifact_id: str) -> Sent:
        known = await self._prepared(wanted)
        empty = await self._manifest(wanted, artifact_id, "", include_upload=False)
        sending = Sending(self._client, self._transfers, self._parting, known)
        target = Unfinished(artifact_id, empty["id"])
        sent = await sending.send(wanted.contents, target, self._progress)
        with NamedTemporaryFile(prefix="launch-manifest-") as file:
            await self._send_manifest(file, wanted, artifact_id, sent)
        await self._client.execute(
            documents.COMMIT, {"artifactID": artifact_id}, deadline=_COMMIT, idempotent=True
        )
        return sent

    async def _send_manifest(
        self, file: IO[bytes], wanted: NewVersion, artifact_id: str, sent: Sent
    ) -> None:
        content = await asyncio.to_thread(
            manifest.write, file, wanted.contents, artifact_id, sent.births
        )
        named = await self._manifest(wanted, artifact_id, content.digest, include_upload=True)
        place = named["file"]
        if place["uploadUrl"] is not None:
            await self._transfers.put(content, place["uploadUrl"], place["uploadHeaders"] or [])

    async def _prepared(self, wanted: NewVersion) -> frozenset[str]:
        """What the server offers; W&B's gets a hidden run."""
        if self._features is not None:
            return self._features
        self._features = await features(self._client)
        if LEASES in self._features:
            return self._features
        given = {
            "name": self._run_name,
            "project": wanted.project,
            "entity": wanted.entity,
            "jobType": "cli_create_job",
        }
        data = await self._client.execute(documents.HIDDEN_RUN, given, idempotent=True)
        self._run_id = data["upsertBucket"]["bucket"]["id"]
        return self._features

    async def _manifest(
        self, wanted: NewVersion, artifact_id: str, digest: str, *, include_upload: bool
    ) -> Json:
        data = await self._client.execute(
            documents.MANIFEST,
            {
                "artifactID": artifact_id,
                "baseArtifactID": None,
                "name": manifest.NAME,
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
