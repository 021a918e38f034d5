"""A far end that speaks W&B's artifact operations, in memory, over real HTTP on loopback.

Only what it must know is in it: versions, aliases, contents by digest. It answers by the name
of the operation, checks every upload against its digest, and can cut connections.
"""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from tests.infrastructure.web import serving as listening

Json = dict[str, Any]
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")


@dataclass
class Version:
    id: str
    collection: str
    type: str
    digest: str
    metadata: Any
    description: str | None
    wanted_aliases: list[str]
    state: str = "PENDING"
    index: int | None = None
    aliases: list[str] = field(default_factory=list)
    manifest: str = ""

    def node(self) -> Json:
        return {
            "id": self.id,
            "state": self.state,
            "digest": self.digest,
            "versionIndex": self.index,
            "description": self.description,
            "metadata": self.metadata,
            "size": 1,
            "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00Z",
            "aliases": self.alias_nodes(),
            "artifactType": {"name": self.type},
            "artifactSequence": {"name": self.collection},
        }

    def alias_nodes(self) -> list[Json]:
        own = [f"v{self.index}"] if self.index is not None else []
        return [{"alias": each, "artifactCollection": None} for each in [*self.aliases, *own]]


@dataclass
class Plane:
    url: str = ""
    #: Of the first version that is made.
    first_id: str = "artifact-0"
    features: list[str] = field(default_factory=lambda: ["LAUNCH_LEASES"])
    versions: list[Version] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    calls: list[tuple[str, Json]] = field(default_factory=list)
    #: Uploads of these names are cut after a few bytes, so often.
    cuts: dict[str, int] = field(default_factory=dict)
    #: Addresses of these names are refused as expired, so often.
    expired: dict[str, int] = field(default_factory=dict)
    puts: list[str] = field(default_factory=list)
    put_headers: list[dict[str, str]] = field(default_factory=list)
    submitted: list[Json] = field(default_factory=list)
    queues: list[Json] = field(default_factory=list)

    def operations(self) -> list[str]:
        return [name for name, _ in self.calls]

    def committed(self, collection: str) -> list[Version]:
        return [
            each
            for each in self.versions
            if each.collection == collection and each.state == "COMMITTED"
        ]

    def files(self, version: Version) -> dict[str, bytes]:
        manifest = json.loads(self.blobs[version.manifest])
        return {path: self.blobs[entry["digest"]] for path, entry in manifest["contents"].items()}

    # ---- HTTP

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/graphql", self.graphql)
        app.router.add_put("/blob/{digest}/{name}", self.put)
        app.router.add_get("/blob/{digest}/{name}", self.get)

    async def graphql(self, request: web.Request) -> web.Response:
        asked = await request.json()
        match = _OPERATION.search(asked["query"])
        assert match is not None, asked["query"]
        name, variables = match[1], asked.get("variables") or {}
        self.calls.append((name, variables))
        return web.json_response(self.answer(name, variables))

    def answer(self, operation: str, variables: Json) -> Json:
        """The body that answers an operation."""
        try:
            return {"data": getattr(self, f"on_{_CAMEL.sub('_', operation).lower()}")(variables)}
        except PlaneError as error:
            extensions = {"code": error.code}
            return {"data": None, "errors": [{"message": str(error), "extensions": extensions}]}

    async def put(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.puts.append(name)
        self.put_headers.append(dict(request.headers))
        if self.cuts.get(name, 0):
            self.cuts[name] -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if self.expired.get(name, 0):
            self.expired[name] -= 1
            return web.Response(status=403, text="<Message>Request has expired</Message>")
        if not self.keep(request.match_info["digest"], await request.read()):
            return web.Response(status=422, text="digest mismatch")
        return web.Response()

    async def get(self, request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers, "signed URLs carry their own right"
        return web.Response(body=self.kept(request.match_info["digest"]))

    def keep(self, place: str, body: bytes) -> bool:
        """Store what was sent to a place, if it is what the place is for."""
        digest = base64.urlsafe_b64decode(place).decode()
        if base64.b64encode(hashlib.md5(body).digest()).decode() != digest:
            return False
        self.blobs[digest] = body
        return True

    def kept(self, place: str) -> bytes:
        return self.blobs[base64.urlsafe_b64decode(place).decode()]

    def place(self, digest: str, name: str) -> str:
        return f"{self.url}/blob/{base64.urlsafe_b64encode(digest.encode()).decode()}/{name}"

    # ---- operations

    def on_viewer(self, _: Json) -> Json:
        return {"viewer": {"entity": "team", "username": "me"}}

    def on_server_features(self, _: Json) -> Json:
        listed = [{"name": each, "isEnabled": True} for each in self.features]
        return {"serverInfo": {"features": listed}}

    def on_upsert_bucket(self, variables: Json) -> Json:
        return {"upsertBucket": {"bucket": {"id": "run-id", "name": variables["name"]}}}

    def on_delete_run(self, _: Json) -> Json:
        return {"deleteRun": {"clientMutationId": None}}

    def on_artifact_type(self, variables: Json) -> Json:
        found = self.committed(variables["name"].partition(":")[0])
        artifact = {"artifactType": {"name": found[0].type}} if found else None
        return {"project": {"artifact": artifact}}

    def on_create_artifact(self, variables: Json) -> Json:
        given = variables["input"]
        name = given["artifactCollectionName"]
        aliases = [each["alias"] for each in given["aliases"]]
        there = self.committed(name)
        latest = {"id": there[-1].id, "versionIndex": there[-1].index} if there else None
        same = next((each for each in there if each.digest == given["digest"]), None)
        if same is None:
            number = f"artifact-{len(self.versions)}"
            same = Version(
                number if self.versions else self.first_id, name, given["artifactTypeName"],
                given["digest"], given["metadata"], given["description"], aliases,
            )  # fmt: skip
            self.versions.append(same)
        else:
            self._move(same, aliases)
        sequence = {"id": name, "latestArtifact": latest}
        artifact = {"id": same.id, "state": same.state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def on_create_artifact_manifest(self, variables: Json) -> Json:
        version = self._by_id(variables["artifactID"])
        version.manifest = variables["digest"]
        file: Json = {"id": "file"}
        if variables["includeUpload"]:
            name = "wandb_manifest.json"
            file |= {"uploadUrl": self.place(version.manifest, name), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def on_create_artifact_files(self, variables: Json) -> Json:
        edges = []
        for asked in variables["input"]["artifactFiles"]:
            known = asked["md5"] in self.blobs
            name = asked["name"].rpartition("/")[2]
            node = {
                "storagePath": asked["name"],
                "uploadUrl": None if known else self.place(asked["md5"], name),
                "uploadHeaders": [f"Content-MD5:{asked['md5']}"],
                "artifact": {"id": asked["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_commit_artifact(self, variables: Json) -> Json:
        version = self._by_id(variables["artifactID"])
        assert self.files(version) is not None
        version.index = len(self.committed(version.collection))
        version.state = "COMMITTED"
        self._move(version, version.wanted_aliases)
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.digest}}}

    def on_artifact_by_id(self, variables: Json) -> Json:
        return {"artifact": self._by_id(variables["id"]).node()}

    def on_artifact_membership_by_name(self, variables: Json) -> Json:
        version = self._named(variables["name"])
        member = None
        if version is not None:
            member = {
                "id": "m",
                "versionIndex": version.index,
                "aliases": version.alias_nodes(),
                "artifact": version.node(),
            }
        return {"project": {"artifactCollectionMembership": member}}

    def on_fetch_artifact_manifest(self, variables: Json) -> Json:
        url = self.place(self._by_id(variables["id"]).manifest, "wandb_manifest.json")
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def on_get_artifact_membership_file_urls(self, variables: Json) -> Json:
        version = self._named(f"{variables['collection']}:{variables['alias']}")
        assert version is not None
        contents = json.loads(self.blobs[version.manifest])["contents"]
        edges = [
            {"node": {"name": path, "directUrl": self.place(entry["digest"], "f"), "sizeBytes": 1}}
            for path, entry in contents.items()
        ]
        page = {"endCursor": None, "hasNextPage": False}
        membership = {"files": {"pageInfo": page, "edges": edges}}
        return {"project": {"artifactCollection": {"artifactMembership": membership}}}

    def on_artifact_of_type(self, variables: Json) -> Json:
        kind = variables["artifactTypeName"]
        names = dict.fromkeys(each.collection for each in self.versions if each.type == kind)
        edges = [
            {"node": {"name": name, "artifacts": {"edges": self._edges(name)}}} for name in names
        ]
        page = {"endCursor": None, "hasNextPage": False}
        return {
            "project": {"artifactType": {"artifactCollections": {"pageInfo": page, "edges": edges}}}
        }

    def on_artifact_versions(self, variables: Json) -> Json:
        edges = self._edges(variables["collection"])
        page = {"endCursor": None, "hasNextPage": False}
        collection = {"artifacts": {"pageInfo": page, "edges": edges}} if edges else None
        return {"project": {"artifactType": {"artifactCollection": collection}}}

    def on_add_aliases(self, variables: Json) -> Json:
        given = variables["input"]
        self._move(self._by_id(given["artifactID"]), [each["alias"] for each in given["aliases"]])
        return {"result": {"success": True}}

    def on_delete_aliases(self, variables: Json) -> Json:
        given = variables["input"]
        version = self._by_id(given["artifactID"])
        gone = {each["alias"] for each in given["aliases"]}
        version.aliases = [each for each in version.aliases if each not in gone]
        return {"result": {"success": True}}

    def on_delete_artifact(self, variables: Json) -> Json:
        version = self._by_id(variables["input"]["artifactID"])
        version.state, version.aliases = "DELETED", []
        return {"deleteArtifact": {"artifact": {"id": version.id}}}

    def on_queues(self, _: Json) -> Json:
        return {"launchQueues": self.queues}

    def on_submit(self, variables: Json) -> Json:
        self.submitted.append(variables["input"])
        item = {
            "id": "a" * 12,
            "name": variables["input"]["runSpec"].get("name"),
            "displayName": "hello",
            "queueName": variables["input"]["queueName"],
            "phase": "QUEUED",
            "warnings": [],
        }
        return {"submitLaunchItem": item}

    def on_item(self, variables: Json) -> Json:
        """Every item has succeeded."""
        item: Json = {
            "id": variables["id"], "phase": "SUCCEEDED", "exitCode": 0, "cause": "SUCCEEDED",
            "message": None, "attempt": 1, "activity": None, "lostContact": False,
            "agentName": "desk", "attempts": [],
        }  # fmt: skip
        return {"launchItem": item}

    # ---- inside

    def _by_id(self, version_id: str) -> Version:
        return next(each for each in self.versions if each.id == version_id)

    def _named(self, name: str) -> Version | None:
        collection, _, alias = name.partition(":")
        for each in self.committed(collection):
            if alias in {node["alias"] for node in each.alias_nodes()}:
                return each
        return None

    def _edges(self, collection: str) -> list[Json]:
        found = [each for each in self.versions if each.collection == collection]
        return [{"node": each.node()} for each in found]

    def _move(self, version: Version, aliases: list[str]) -> None:
        for each in self.committed(version.collection):
            each.aliases = [alias for alias in each.aliases if alias not in aliases]
        version.aliases += [alias for alias in aliases if alias not in version.aliases]


Far = TypeVar("Far", bound=Plane)


class PlaneError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@asynccontextmanager
async def plane() -> AsyncIterator[Plane]:
    async with serving(Plane()) as end:
        yield end


@asynccontextmanager
async def serving(end: Far) -> AsyncIterator[Far]:
    """The far end at an address of its own."""
    app = web.Application(client_max_size=1 << 30)
    end.add_routes(app)
    async with listening(app) as end.url:
        yield end
