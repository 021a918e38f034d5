"""Upload of one version's files: in batches, each sent while the next is announced.

Nothing is kept of a batch that is done, so that a version of very many files needs little
memory. Large files go in parts, where the server gives URLs for parts: a part that fails is
sent again alone, and an expired URL is renewed; parts that the store has of the same upload
are not sent again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agent.model.errors import ServerError
from agent.remote.artifacts.contents import ByteRange, Content, PartSizes, parts_input, split_parts
from agent.remote.artifacts.transfers import ContentWithUrl, Transfers, batches
from agent.remote.client import ControlPlaneClient
from agent.remote.retry_rules import SignedUrlRefusedError
from agent.system.tasks import task_group

Json = dict[str, Any]
#: Files that are announced in one request, or parts of large ones.
_BATCH: Final = 250
#: Batches in transfer at a time.
_AHEAD: Final = 2
#: Requests at a time: for single files or parts of them, and for many files each.
_PARALLEL: Final = 8
_PARALLEL_MANY: Final = 2
#: How often URLs are renewed for one file.
_RENEWALS: Final = 3
#: Seconds; the store joins the parts before it replies.
_COMPLETE_DEADLINE: Final = 300.0

_FILES: Final = """
mutation CreateArtifactFiles($input: CreateArtifactFilesInput!) {
  createArtifactFiles(input: $input) {
    files { edges { node {
      storagePath uploadUrl uploadHeaders artifact { id }
      uploadMultipartUrls { uploadID uploadUrlParts { partNumber uploadUrl } }
    } } }
  }
}
"""

_COMPLETE_PARTS: Final = """
mutation CompleteMultipartUploadArtifact($input: CompleteMultipartUploadArtifactInput!) {
  completeMultipartUploadArtifact(input: $input) { digest }
}
"""


@dataclass(frozen=True, slots=True)
class SplitFile:
    """A file and its parts."""

    content: Content
    parts: tuple[ByteRange, ...]


#: A file, and the `node` of the wire that says where it goes.
AnnouncedFile = tuple[SplitFile, Json]


@dataclass(frozen=True, slots=True)
class PendingVersion:
    """A version that is not committed yet: its id, and its manifest's."""

    artifact: str
    manifest: str


@dataclass(slots=True)
class SentFiles:
    """What was sent of a version, and which artifacts the rest came with."""

    files: int = 0
    bytes: int = 0
    #: Path → id of the artifact that the file was first stored with (`birthArtifactID`), where
    #: that is another one.
    birth_artifacts: dict[str, str] = field(default_factory=dict)


class FileUploads:
    """Sends files to one server; `ours` says that it is a control plane of ours."""

    def __init__(
        self,
        client: ControlPlaneClient,
        transfers: Transfers,
        part_sizes: PartSizes,
        *,
        ours: bool,
    ) -> None:
        self._client = client
        self._transfers = transfers
        self._part_sizes = part_sizes
        self._ours = ours
        self._free = asyncio.Semaphore(_PARALLEL)
        self._free_many = asyncio.Semaphore(_PARALLEL_MANY)
        self._parts = PartUploads(client, transfers, self._free)

    async def send(
        self,
        contents: Sequence[Content],
        target: PendingVersion,
        progress: Callable[[int, int], None],
    ) -> SentFiles:
        """Send what the server lacks; `progress` gets the number of files done and of all.

        Raises:
            InvalidInputError, LaunchError: see `ArtifactUploader.store`.
        """
        sent, room, done = SentFiles(), asyncio.Semaphore(_AHEAD), 0

        async def one(batch: Sequence[AnnouncedFile]) -> None:
            nonlocal done
            try:
                await self._send_missing(batch, target, sent)
            finally:
                room.release()
            done += len(batch)
            progress(done, len(contents))

        async with task_group() as group:
            for files in _batches(contents, self._part_sizes):
                await room.acquire()
                placed = await self._announced(files, target, sent)
                group.create_task(one(placed), name="upload a batch of files")
        return sent

    async def _announced(
        self, batch: Sequence[Content], target: PendingVersion, sent: SentFiles
    ) -> list[AnnouncedFile]:
        """Announce files; a reply without an upload URL says that the server has the content."""
        # Our own servers accept any size in one request.
        files = [
            SplitFile(each, () if self._ours else await split_parts(each, self._part_sizes))
            for each in batch
        ]
        nodes = await self._nodes(files, target)
        for file, node in zip(files, nodes, strict=True):
            birth = (node.get("artifact") or {}).get("id") or target.artifact
            if birth != target.artifact:
                sent.birth_artifacts[file.content.path] = birth
        return list(zip(files, nodes, strict=True))

    async def _send_missing(
        self, batch: Iterable[AnnouncedFile], target: PendingVersion, sent: SentFiles
    ) -> None:
        missing = [pair for pair in batch if pair[1]["uploadUrl"]]
        small = self._small(missing)
        with_others = {file.content.path for file in small}
        async with task_group() as group:
            for several in batches(small):
                group.create_task(self._put_many(several), name="upload small files")
            for file, node in missing:
                if file.content.path not in with_others:
                    task = self._put_one(file, node, target)
                    group.create_task(task, name=f"upload {file.content.path}")
        sent.files += len(missing)
        sent.bytes += sum(file.content.size for file, _ in missing)

    def _small(self, missing: Iterable[AnnouncedFile]) -> list[ContentWithUrl]:
        """Files that go into requests with others; only our servers accept such requests."""
        if not self._ours:
            return []
        files = (ContentWithUrl(file.content, str(node["uploadUrl"])) for file, node in missing)
        return [file for file in files if file.is_small]

    async def _put_many(self, batch: Sequence[ContentWithUrl]) -> None:
        async with self._free_many:
            await self._transfers.put_batch(batch)

    async def _put_one(self, file: SplitFile, node: Json, target: PendingVersion) -> None:
        if file.parts and node.get("uploadMultipartUrls"):
            await self._parts.send(file, node, lambda: self._node(file, target))
            return
        try:
            await self._put_whole(file, node)
        except SignedUrlRefusedError:
            # The URL expired while the file waited behind others, on a slow link for hours.
            renewed = await self._node(file, target)
            if renewed["uploadUrl"]:
                await self._put_whole(file, renewed)

    async def _put_whole(self, file: SplitFile, node: Json) -> None:
        async with self._free:
            headers = node.get("uploadHeaders") or []
            await self._transfers.put(file.content, node["uploadUrl"], headers)

    async def _node(self, file: SplitFile, target: PendingVersion) -> Json:
        return (await self._nodes([file], target))[0]

    async def _nodes(self, files: Sequence[SplitFile], target: PendingVersion) -> list[Json]:
        asked = [
            {
                "artifactID": target.artifact,
                "artifactManifestID": target.manifest,
                "name": file.content.path,
                "md5": file.content.digest,
            }
            | ({"uploadPartsInput": parts_input(file.parts)} if file.parts else {})
            for file in files
        ]
        data = await self._client.execute(
            _FILES,
            {"input": {"artifactFiles": asked, "storageLayout": "V2"}},
            idempotent=True,
        )
        nodes = [edge["node"] for edge in data["createArtifactFiles"]["files"]["edges"]]
        if len(nodes) != len(files):
            message = f"The server gave URLs for {len(nodes)} of {len(files)} files."
            raise ServerError(message)
        return nodes


def _batches(contents: Sequence[Content], rules: PartSizes) -> Iterator[Sequence[Content]]:
    """A part counts as much as a whole file, which bounds the size of a request."""
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


@dataclass(slots=True)
class _Upload:
    """The state of one multipart upload of the store."""

    id: str
    #: Part number → the tag that the store gave for it.
    tags: dict[int, str] = field(default_factory=dict)


class PartUploads:
    """Sends large files in parts; `free` bounds the number of requests at a time."""

    def __init__(
        self, client: ControlPlaneClient, transfers: Transfers, free: asyncio.Semaphore
    ) -> None:
        self._client = client
        self._transfers = transfers
        self._free = free

    async def send(
        self, file: SplitFile, node: Json, renewed: Callable[[], Awaitable[Json]]
    ) -> None:
        """Send a file to a node with `uploadMultipartUrls`; `renewed` asks for new URLs.

        Raises:
            ServerError: the node does not fit the parts, or the store gave no tag.
            InvalidInputError, UnreachableError, LaunchError: as `Transfers.put`.
        """
        upload = _Upload("")
        for renewals_left in reversed(range(_RENEWALS + 1)):
            given = node["uploadMultipartUrls"]
            if given["uploadID"] != upload.id:
                upload = _Upload(given["uploadID"])
            refused = await self._send_missing(file, upload, node)
            if refused is None:
                await self._complete(file, node, upload)
                return
            if renewals_left == 0:
                raise refused
            node = await renewed()
            if node["uploadUrl"] is None:
                return
            if node.get("uploadMultipartUrls") is None:
                raise refused

    async def _send_missing(
        self, file: SplitFile, upload: _Upload, node: Json
    ) -> SignedUrlRefusedError | None:
        """Send the parts that have no tag yet, until an address is refused."""
        addresses = _addresses(file, node["uploadMultipartUrls"])
        headers = node.get("uploadHeaders") or []
        refused: list[SignedUrlRefusedError] = []

        async def one(number: int, part: ByteRange) -> None:
            async with self._free:
                if refused:
                    return
                try:
                    upload.tags[number] = await self._transfers.put_part(
                        file.content, part, addresses[number], headers
                    )
                except SignedUrlRefusedError as error:
                    refused.append(error)

        missing = [pair for pair in enumerate(file.parts, start=1) if pair[0] not in upload.tags]
        async with task_group() as group:
            for number, part in missing:
                name = f"upload {file.content.path}, part {number}"
                group.create_task(one(number, part), name=name)
        return refused[0] if refused else None

    async def _complete(self, file: SplitFile, node: Json, upload: _Upload) -> None:
        given = {
            "completeMultipartAction": "Complete",
            "completedParts": [
                # The wire calls the store's tag an MD5, whatever the store makes it of.
                {"partNumber": number, "hexMD5": upload.tags[number]}
                for number in range(1, len(file.parts) + 1)
            ],
            "artifactID": node["artifact"]["id"],
            "storagePath": node["storagePath"],
            "uploadID": upload.id,
        }
        await self._client.execute(
            _COMPLETE_PARTS, {"input": given}, deadline=_COMPLETE_DEADLINE, idempotent=True
        )


def _addresses(file: SplitFile, given: Json) -> dict[int, str]:
    addresses = {part["partNumber"]: part["uploadUrl"] for part in given["uploadUrlParts"]}
    if sorted(addresses) != list(range(1, len(file.parts) + 1)):
        message = (
            f"The server gave URLs for {len(addresses)} parts of '{file.content.path}', "
            f"which has {len(file.parts)}, or numbered them otherwise."
        )
        raise ServerError(message)
    return addresses
