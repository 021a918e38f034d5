"""Storing a new version of an artifact, in the order in which W&B's client does it.

Create → manifest's place → places of the files → files → manifest → commit. Only what the
server does not hold is sent; a version exists for others from the commit on, so a cut upload
leaves none behind, and the next try sends what is missing. Files that are too large for one
request of an object store go in parts, where the server gives places for parts.
"""

import asyncio
import hashlib
import json
import secrets
import string
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from agent.model.errors import LaunchError, ServerError
from agent.model.job.digest import encoded, manifest_digest
from agent.remote.artifacts import documents
from agent.remote.artifacts.batches import Addressed, batches
from agent.remote.artifacts.part_upload import Parted, PartUploads
from agent.remote.artifacts.parts import Parting, announced, cut
from agent.remote.artifacts.reading import Content, Extent
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import GraphQLClient
from agent.remote.features import CONTENT_BATCHES, LEASES, features

Json = dict[str, Any]

_PARTING: Final = Parting()
#: Files that are announced in one request, or parts of large ones.
_BATCH: Final = 500
#: Files, or parts of them, on their way at a time.
_PARALLEL: Final = 8
#: Seconds; the server may check many files before it answers.
_COMMIT: Final = 300.0
_MANIFEST_NAME: Final = "wandb_manifest.json"
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
        self._free = asyncio.Semaphore(_PARALLEL)
        self._parts = PartUploads(client, transfers, self._free)
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
                return Stored(artifact["id"], action, len(sent), sum(each.size for each in sent))
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

    async def _fill(self, wanted: NewVersion, artifact_id: str) -> list[Content]:
        await self._prepare_run(wanted)
        manifest = await self._manifest(wanted, artifact_id, "", include_upload=False)
        births: dict[str, str] = {}
        sent: list[Content] = []
        for batch in _batches(wanted.contents, self._parting):
            sent += await self._send(batch, artifact_id, manifest["id"], births)
            self._progress(len(births), len(wanted.contents))
        written = _manifest_text(wanted.contents, births)
        md5 = encoded(hashlib.md5(written, usedforsecurity=False).digest())
        manifest = await self._manifest(wanted, artifact_id, md5, include_upload=True)
        file = manifest["file"]
        if file["uploadUrl"] is not None:
            content = Content(_MANIFEST_NAME, md5, len(written), written)
            await self._transfers.put(content, file["uploadUrl"], file["uploadHeaders"] or [])
        await self._client.execute(
            documents.COMMIT, {"artifactID": artifact_id}, deadline=_COMMIT, idempotent=True
        )
        return sent

    @property
    def _foreign(self) -> bool:
        """Whether the server is W&B's."""
        return LEASES not in (self._features or ())

    async def _prepare_run(self, wanted: NewVersion) -> None:
        if self._features is not None:
            return
        self._features = await features(self._client)
        if not self._foreign:
            return
        given = {
            "name": self._run_name,
            "project": wanted.project,
            "entity": wanted.entity,
            "jobType": "cli_create_job",
        }
        data = await self._client.execute(documents.HIDDEN_RUN, given, idempotent=True)
        self._run_id = data["upsertBucket"]["bucket"]["id"]

    async def _manifest(
        self, wanted: NewVersion, artifact_id: str, digest: str, *, include_upload: bool
    ) -> Json:
        data = await self._client.execute(
            documents.MANIFEST,
            {
                "artifactID": artifact_id,
                "baseArtifactID": None,
                "name": _MANIFEST_NAME,
                "digest": digest,
                "entityName": wanted.entity,
                "projectName": wanted.project,
                "runName": self._run_name,
                "manifestType": "FULL",
                "includeUpload": include_upload,
            },
            idempotent=True,
        )
        manifest: Json = data["createArtifactManifest"]["artifactManifest"]
        return manifest

    async def _send(
        self,
        batch: Sequence[Content],
        artifact_id: str,
        manifest_id: str,
        births: dict[str, str],
    ) -> list[Content]:
        """Send what the server lacks of one batch; notes where each file was born."""
        files = [Parted(content, await self._parts_of(content)) for content in batch]

        async def asked(wanted: Sequence[Parted]) -> list[Json]:
            return await self._places(wanted, artifact_id, manifest_id)

        async def one(file: Parted, place: Json) -> None:
            if file.parts and place.get("uploadMultipartUrls"):
                await self._parts.send(file, place, lambda: _first(asked([file])))
                return
            async with self._free:
                headers = place.get("uploadHeaders") or []
                await self._transfers.put(file.content, place["uploadUrl"], headers)

        places = await asked(files)
        for file, place in zip(files, places, strict=True):
            births[file.content.path] = (place.get("artifact") or {}).get("id") or artifact_id
        missing = [pair for pair in zip(files, places, strict=True) if pair[1]["uploadUrl"]]
        small = self._small(missing)
        together = {file.content.path for file in small}
        try:
            async with asyncio.TaskGroup() as group:
                for several in batches(small):
                    group.create_task(self._put_batch(several), name="upload small files")
                for file, place in missing:
                    if file.content.path not in together:
                        group.create_task(one(file, place), name=f"upload {file.content.path}")
        except ExceptionGroup as failed:
            # One reason is enough for people; the others mostly are the same.
            raise failed.exceptions[0] from None
        return [file.content for file, _ in missing]

    def _small(self, missing: Iterable[tuple[Parted, Json]]) -> list[Addressed]:
        """What this server takes together with others."""
        if CONTENT_BATCHES not in (self._features or ()):
            return []
        files = (Addressed(file.content, str(place["uploadUrl"])) for file, place in missing)
        return [file for file in files if file.is_small]

    async def _put_batch(self, batch: Sequence[Addressed]) -> None:
        async with self._free:
            await self._transfers.put_batch(batch)

    async def _parts_of(self, content: Content) -> tuple[Extent, ...]:
        return await cut(content, self._parting) if self._foreign else ()

    async def _places(
        self, files: Sequence[Parted], artifact_id: str, manifest_id: str
    ) -> list[Json]:
        asked = [
            {
                "artifactID": artifact_id,
                "artifactManifestID": manifest_id,
                "name": file.content.path,
                "md5": file.content.digest,
            }
            | ({"uploadPartsInput": announced(file.parts)} if file.parts else {})
            for file in files
        ]
        data = await self._client.execute(
            documents.FILES,
            {"input": {"artifactFiles": asked, "storageLayout": "V2"}},
            idempotent=True,
        )
        places = [edge["node"] for edge in data["createArtifactFiles"]["files"]["edges"]]
        if len(places) != len(files):
            message = f"The server made places for {len(places)} of {len(files)} files."
            raise ServerError(message)
        return places


async def _first(places: Awaitable[list[Json]]) -> Json:
    return (await places)[0]


def _manifest_text(contents: Sequence[Content], births: Mapping[str, str]) -> bytes:
    entries = {
        each.path: {
            "digest": each.digest,
            "size": each.size,
            "birthArtifactID": births[each.path],
        }
        for each in contents
    }
    manifest = {
        "version": 1,
        "storagePolicy": "wandb-storage-policy-v1",
        "storagePolicyConfig": {"storageLayout": "V2"},
        "contents": entries,
    }
    return json.dumps(manifest).encode()


def _batches(contents: Sequence[Content], rules: Parting) -> Iterator[Sequence[Content]]:
    """Whole files and parts count alike, so that no request grows beyond bounds."""
    batch: list[Content] = []
    room = _BATCH
    for content in contents:
        weight = max(1, rules.count(content.size))
        if batch and weight > room:
            yield batch
            batch, room = [], _BATCH
        batch.append(content)
        room -= weight
    if batch:
        yield batch


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
