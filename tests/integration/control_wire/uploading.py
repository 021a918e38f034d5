"""Makes artifacts as W&B's client does: create, manifest, files, PUT, manifest, commit."""

import io
import json
from dataclasses import dataclass, field
from typing import Any

from agent.model.job.digest import manifest_digest
from tests.infrastructure.artifacts import md5
from tests.integration.control_wire import artifact_documents as documents
from tests.integration.control_wire.wire import Caller

PLACE = {"entityName": "ann", "projectName": "demo"}


@dataclass
class Upload:
    """One artifact on its way; steps may be taken one by one."""

    caller: Caller
    name: str
    files: dict[str, bytes]
    type: str = "code"
    references: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ("latest",)
    client_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    place: dict[str, str] = field(default_factory=lambda: dict(PLACE))
    id: str = ""
    state: str = ""
    latest: dict[str, Any] | None = None

    @property
    def digests(self) -> dict[str, str]:
        return {path: md5(content) for path, content in self.files.items()} | self.references

    def manifest(self) -> bytes:
        contents: dict[str, Any] = {
            path: {"digest": md5(content), "size": len(content), "birthArtifactID": self.id}
            for path, content in self.files.items()
        }
        for path, address in self.references.items():
            contents[path] = {"digest": address, "ref": address, "size": 1}
        return json.dumps({"version": 1, "contents": contents}).encode()

    async def create(self) -> "Upload":
        wanted = {
            **self.place,
            "artifactTypeName": self.type,
            "artifactCollectionName": self.name,
            "digest": manifest_digest(self.digests),
            "digestAlgorithm": "MANIFEST_MD5",
            "aliases": [
                {"alias": alias, "artifactCollectionName": self.name} for alias in self.aliases
            ],
            "enableDigestDeduplication": True,
            "clientID": self.client_id,
            "metadata": json.dumps(self.metadata),
            "runName": self.run,
        }
        data = await self.caller.data(documents.CREATE, input=wanted)
        artifact = data["createArtifact"]["artifact"]
        self.id, self.state = artifact["id"], artifact["state"]
        self.latest = artifact["artifactSequence"]["latestArtifact"]
        return self

    async def announce(self) -> dict[str, dict[str, Any]]:
        specs = [
            {
                "artifactID": self.id,
                "name": path,
                "md5": md5(content),
                "uploadPartsInput": self.parts.get(path),
            }
            for path, content in self.files.items()
        ]
        data = await self.caller.data(
            documents.FILES, input={"artifactFiles": specs, "storageLayout": "V2"}
        )
        nodes = [edge["node"] for edge in data["createArtifactFiles"]["files"]["edges"]]
        assert [node["artifact"]["id"] for node in nodes] == [self.id] * len(specs)
        return dict(zip(self.files, nodes, strict=True))

    async def put(self, node: dict[str, Any], content: bytes) -> int:
        headers = dict(line.split(":", 1) for line in node["uploadHeaders"])
        http = self.caller.wire.http
        async with http.put(node["uploadUrl"], data=io.BytesIO(content), headers=headers) as answer:
            return answer.status

    async def send(self) -> list[str]:
        """Send what the server lacks; returns the paths that were sent."""
        sent = []
        for path, node in (await self.announce()).items():
            if node["uploadUrl"] is not None:
                assert await self.put(node, self.files[path]) == 200
                sent.append(path)
        return sent

    async def send_manifest(self) -> None:
        text = self.manifest()
        asked = {
            **self.place,
            "artifactID": self.id,
            "name": "wandb_manifest.json",
            "runName": "r",
            "manifestType": "FULL",
        }
        empty = await self.caller.data(documents.MANIFEST, digest="", includeUpload=False, **asked)
        full = await self.caller.data(
            documents.MANIFEST, digest=md5(text), includeUpload=True, **asked
        )
        first, second = (
            each["createArtifactManifest"]["artifactManifest"] for each in (empty, full)
        )
        assert first["id"] == second["id"]
        assert await self.put(second["file"], text) == 200

    async def commit(self) -> dict[str, Any]:
        return await self.caller.ask(documents.COMMIT, artifactID=self.id)

    async def whole(self) -> "Upload":
        await self.create()
        if self.state == "PENDING":
            await self.send()
            await self.send_manifest()
            answer = await self.commit()
            assert "errors" not in answer, answer
        return self

    async def member(self, alias: str) -> dict[str, Any] | None:
        data = await self.caller.data(
            documents.MEMBERSHIP, entity="ann", project="demo", name=f"{self.name}:{alias}"
        )
        return data["project"]["artifactCollectionMembership"]


def job_files(source: dict[str, Any], kind: str) -> dict[str, bytes]:
    content = {"_version": "v0", "source_type": kind, "source": source, "runtime": "3.11"}
    return {
        "wandb-job.json": json.dumps(content).encode(),
        "requirements.frozen.txt": b"",
    }
