"""A far end as W&B's hosted one on an object store: it gives addresses for the parts of a file.

It is as strict as a store: the MD5 of each part must be the one that was announced for its
number, and an upload is put together from all its parts, in order, by the store's own tags.
"""

import base64
import hashlib
from dataclasses import dataclass, field

from aiohttp import web

from tests.unit.jobs.plane import Json, Plane, PlaneError


@dataclass
class Upload:
    """What the store knows of one upload in parts."""

    digest: str
    announced: dict[int, str]
    bodies: dict[int, bytes] = field(default_factory=dict)
    tags: dict[int, str] = field(default_factory=dict)


@dataclass
class PartStore(Plane):
    """W&B's servers in memory, with a store that takes parts."""

    features: list[str] = field(default_factory=list)
    uploads: dict[str, Upload] = field(default_factory=dict)
    #: Numbers of the parts that were sent, in their order; refused ones too.
    seen: list[int] = field(default_factory=list)
    #: The next request for a part is refused with this status, or cut at 0.
    faults: dict[int, list[int]] = field(default_factory=dict)
    #: Whether addresses that are asked for again belong to the same upload.
    same_upload: bool = True
    with_tags: bool = True
    part_headers: list[dict[str, str]] = field(default_factory=list)
    #: Bodies are hashed and forgotten, for files that are large.
    forgets: bool = False

    def add_routes(self, app: web.Application) -> None:
        super().add_routes(app)
        app.router.add_put("/parts/{upload}/{number}", self.put_part)

    async def put_part(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        self.seen.append(number)
        self.part_headers.append(dict(request.headers))
        assert "Authorization" not in request.headers
        fault = self.faults[number].pop(0) if self.faults.get(number) else None
        if fault == 0:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault is not None:
            return web.Response(status=fault, text="<Message>Request has expired</Message>")
        return await self._keep_part(self.uploads[request.match_info["upload"]], number, request)

    async def _keep_part(self, upload: Upload, number: int, request: web.Request) -> web.Response:
        total, kept = hashlib.md5(), b""
        async for piece in request.content.iter_chunked(1 << 18):
            total.update(piece)
            kept += b"" if self.forgets else piece
        promised = base64.b64encode(total.digest()).decode() == request.headers["Content-MD5"]
        if not promised or total.hexdigest() != upload.announced[number]:
            return web.Response(status=400, text="BadDigest")
        upload.bodies[number] = kept
        upload.tags[number] = f'"{number}-{total.hexdigest()}"'
        headers = {"ETag": upload.tags[number]} if self.with_tags else {}
        return web.Response(headers=headers)

    def on_create_artifact_files(self, variables: Json) -> Json:
        answer = super().on_create_artifact_files(variables)
        edges = answer["createArtifactFiles"]["files"]["edges"]
        for asked, edge in zip(variables["input"]["artifactFiles"], edges, strict=True):
            urls = None
            if asked.get("uploadPartsInput") and edge["node"]["uploadUrl"]:
                urls = self._parts_of(asked)
            edge["node"]["uploadMultipartUrls"] = urls
        return answer

    def _parts_of(self, asked: Json) -> Json:
        announced = {part["partNumber"]: part["hexMD5"] for part in asked["uploadPartsInput"]}
        known = [key for key, each in self.uploads.items() if each.digest == asked["md5"]]
        upload_id = known[-1] if known and self.same_upload else f"upload-{len(self.uploads)}"
        self.uploads.setdefault(upload_id, Upload(asked["md5"], announced))
        parts = [
            {"partNumber": number, "uploadUrl": f"{self.url}/parts/{upload_id}/{number}"}
            for number in announced
        ]
        return {"uploadID": upload_id, "uploadUrlParts": parts}

    def on_complete_multipart_upload_artifact(self, variables: Json) -> Json:
        given = variables["input"]
        upload = self.uploads[given["uploadID"]]
        assert given["completeMultipartAction"] == "Complete"
        named = [(part["partNumber"], part["hexMD5"]) for part in given["completedParts"]]
        if named != sorted(upload.tags.items()):
            raise PlaneError("INVALID_INPUT", "InvalidPart or InvalidPartOrder")
        whole = b"".join(upload.bodies[number] for number, _ in named)
        digest = base64.b64encode(hashlib.md5(whole).digest()).decode()
        assert self.forgets or digest == upload.digest
        self.blobs[upload.digest] = whole
        return {"completeMultipartUploadArtifact": {"digest": digest}}
