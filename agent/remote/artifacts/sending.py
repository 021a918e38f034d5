"""The files of one version: announced in batches, and sent while the next batch is announced.

What is known of a file while it is on its way is forgotten with its batch, so that a version of
very many files needs little memory.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agent.model.errors import ServerError
from agent.remote.artifacts import documents
from agent.remote.artifacts.batches import Addressed, batches
from agent.remote.artifacts.part_upload import Parted, PartUploads
from agent.remote.artifacts.parts import Parting, announced, cut
from agent.remote.artifacts.reading import Content, Extent
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import GraphQLClient
from agent.remote.failures import AddressRefusedError
from agent.remote.features import CONTENT_BATCHES, LEASES
from agent.system.tasks import task_group

Json = dict[str, Any]
Placed = tuple[Parted, Json]

#: Files that are announced in one request, or parts of large ones.
_BATCH: Final = 250
#: Announced batches whose files are on their way.
_AHEAD: Final = 2
#: Requests for single files, or parts of them, and requests for many files, at a time.
_PARALLEL: Final = 8
_PARALLEL_MANY: Final = 2


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A version that is not committed yet: its id, and its manifest's."""

    artifact: str
    manifest: str


@dataclass(slots=True)
class Sent:
    """What was sent of a version, and where the server had the rest from."""

    files: int = 0
    bytes: int = 0
    #: Path → id of the artifact that brought the file, where it is another one.
    births: dict[str, str] = field(default_factory=dict)


class Sending:
    """Sends files to one server, whose `features` tell how it wants them."""

    def __init__(
        self,
        client: GraphQLClient,
        transfers: Transfers,
        parting: Parting,
        features: frozenset[str],
    ) -> None:
        self._client = client
        self._transfers = transfers
        self._parting = parting
        self._features = features
        self._free = asyncio.Semaphore(_PARALLEL)
        self._free_many = asyncio.Semaphore(_PARALLEL_MANY)
        self._parts = PartUploads(client, transfers, self._free)

    async def send(
        self, contents: Sequence[Content], target: Unfinished, progress: Callable[[int, int], None]
    ) -> Sent:
        """Send what the server lacks; `progress` hears how many files are there, and of how many.

        Raises:
            ServerError, InvalidInputError, UnreachableError, LaunchError: as `Uploads.store`.
        """
        sent, room, there = Sent(), asyncio.Semaphore(_AHEAD), 0

        async def one(batch: Sequence[Placed]) -> None:
            nonlocal there
            try:
                await self._send_missing(batch, target, sent)
            finally:
                room.release()
            there += len(batch)
            progress(there, len(contents))

        async with task_group() as group:
            for files in _batches(contents, self._parting):
                await room.acquire()
                placed = await self._announced(files, target, sent)
                group.create_task(one(placed), name="upload a batch of files")
        return sent

    async def _announced(
        self, batch: Sequence[Content], target: Unfinished, sent: Sent
    ) -> list[Placed]:
        """Ask for places, which tell what is missing."""
        files = [Parted(content, await self._parts_of(content)) for content in batch]
        places = await self._places(files, target)
        for file, place in zip(files, places, strict=True):
            birth = (place.get("artifact") or {}).get("id") or target.artifact
            if birth != target.artifact:
                sent.births[file.content.path] = birth
        return list(zip(files, places, strict=True))

    async def _send_missing(self, batch: Iterable[Placed], target: Unfinished, sent: Sent) -> None:
        missing = [pair for pair in batch if pair[1]["uploadUrl"]]
        small = self._small(missing)
        with_others = {file.content.path for file in small}
        async with task_group() as group:
            for several in batches(small):
                group.create_task(self._put_many(several), name="upload small files")
            for file, place in missing:
                if file.content.path not in with_others:
                    task = self._put_one(file, place, target)
                    group.create_task(task, name=f"upload {file.content.path}")
        sent.files += len(missing)
        sent.bytes += sum(file.content.size for file, _ in missing)

    def _small(self, missing: Iterable[Placed]) -> list[Addressed]:
        """What this server takes together with others."""
        if CONTENT_BATCHES not in self._features:
            return []
        files = (Addressed(file.content, str(place["uploadUrl"])) for file, place in missing)
        return [file for file in files if file.is_small]

    async def _put_many(self, batch: Sequence[Addressed]) -> None:
        async with self._free_many:
            await self._transfers.put_batch(batch)

    async def _put_one(self, file: Parted, place: Json, target: Unfinished) -> None:
        if file.parts and place.get("uploadMultipartUrls"):
            await self._parts.send(file, place, lambda: self._place(file, target))
            return
        try:
            await self._put_whole(file, place)
        except AddressRefusedError:
            # It waited behind others of its batch, on a slow link for hours.
            renewed = await self._place(file, target)
            if renewed["uploadUrl"]:
                await self._put_whole(file, renewed)

    async def _put_whole(self, file: Parted, place: Json) -> None:
        async with self._free:
            headers = place.get("uploadHeaders") or []
            await self._transfers.put(file.content, place["uploadUrl"], headers)

    async def _parts_of(self, content: Content) -> tuple[Extent, ...]:
        """Our own control plane takes any size in one request."""
        return () if LEASES in self._features else await cut(content, self._parting)

    async def _place(self, file: Parted, target: Unfinished) -> Json:
        return (await self._places([file], target))[0]

    async def _places(self, files: Sequence[Parted], target: Unfinished) -> list[Json]:
        asked = [
            {
                "artifactID": target.artifact,
                "artifactManifestID": target.manifest,
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
